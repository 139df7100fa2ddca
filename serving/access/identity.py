"""Role, Grant, Identity: who somebody is, and what for. Pure values.

    viewer < predictor < deployer < approver < admin

A role includes those before it. A grant gives a role for models whose names match its patterns (`*` and `?` as in a shell); a grant for
`*` is one for the whole engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Self

from serving.errors import InvalidArgument, PermissionDenied

ALL = "*"
MAX_PATTERNS = 256
_PATTERN = re.compile(r"[A-Za-z0-9_.\-*?]{1,128}\Z")


class Role(IntEnum):
    """What somebody may do. viewer: look; predictor: ask models; deployer: change them; approver: let changes through; admin: all."""

    viewer = 1
    predictor = 2
    deployer = 3
    approver = 4
    admin = 5

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the role of this name. Raises InvalidArgument that names them all."""
        try:
            return cls[text]
        except KeyError:
            raise InvalidArgument(f"'{text[:40]}' is not a role, expected one of {', '.join(r.name for r in cls)}") from None


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for some models. Written as "predictor", or with patterns as "deployer:digits,mlp-*"."""

    role: Role
    models: tuple[str, ...] = (ALL,)

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the grant that is written so. Raises InvalidArgument."""
        name, colon, patterns = text.partition(":")
        models = tuple(dict.fromkeys(p.strip() for p in patterns.split(","))) if colon else (ALL,)
        if len(models) > MAX_PATTERNS:
            raise InvalidArgument(f"a grant names at most {MAX_PATTERNS} models, got {len(models)}")
        for pattern in models:
            if not _PATTERN.match(pattern):
                raise InvalidArgument(f"'{pattern[:140]}' is not the name of a model, with * and ? as wildcards")
        return cls(Role.of(name.strip()), models)

    def __str__(self) -> str:
        return self.role.name if self.models == (ALL,) else f"{self.role.name}:{','.join(self.models)}"

    def covers(self, model: str) -> bool:
        return any(pattern == ALL or fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def whole(self) -> bool:
        """Whether it is for the whole engine."""
        return ALL in self.models


@dataclass(frozen=True, slots=True)
class Quota:
    """What somebody may ask of the engine, of all its gateways together; 0 = no limit. burst: requests that may come at once after a
    pause; 0 = those of a second."""

    requests_per_s: float = 0.0
    burst: int = 0
    inflight_requests: int = 0

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self.requests_per_s or self.inflight_requests)

    def wider(self, other: Quota) -> Quota:
        """Return what somebody may ask who has both."""

        def most(a: float, b: float) -> float:
            return max(a, b) if a and b else 0

        return Quota(
            most(self.requests_per_s, other.requests_per_s),
            int(max(self.burst, other.burst)),
            int(most(self.inflight_requests, other.inflight_requests)),
        )


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who has shown who they are.

    name      of the key or the token's subject; what events and logs show
    until     when it is no longer so, in seconds since 1970; 0.0 = never
    """

    name: str
    grants: tuple[Grant, ...]
    until: float = 0.0
    quota: Quota = NO_QUOTA

    def may(self, role: Role, model: str = "") -> bool:
        """Whether it has the role for a model; "": for at least one."""
        return any(g.role >= role and (not model or g.covers(model)) for g in self.grants)

    def may_all(self, role: Role) -> bool:
        """Whether it has the role for the whole engine."""
        return any(g.role >= role and g.whole for g in self.grants)

    def demand(self, role: Role, model: str = "") -> None:
        """Raise PermissionDenied unless it has the role for the model; "": for at least one."""
        if not self.may(role, model):
            where = f" for model '{model[:128]}'" if model else ""
            raise PermissionDenied(f"'{self.name}' needs the role {role.name}{where}")

    def demand_all(self, role: Role) -> None:
        """Raise PermissionDenied unless it has the role for the whole engine."""
        if not self.may_all(role):
            raise PermissionDenied(f"'{self.name}' needs the role {role.name} for all models")

    def __repr__(self) -> str:
        return f"Identity({self.name}: {' '.join(map(str, self.grants)) or 'nothing'})"
