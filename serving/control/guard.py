"""Guard: who may ask the control API what. Off while access is off; then everybody who reaches the port may do everything.

What only reads is open to viewers, a change of a model to its deployers, all else to admins: a new endpoint is closed until it is
written down here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from serving.access.identity import Identity, Role
from serving.control.acceptance import part
from serving.control.keyring import Keyring
from serving.plan import EngineSettings, Target


class Guard:
    """Knows who sends a request, and what it may do."""

    def __init__(self, keyring: Keyring, settings: Callable[[], EngineSettings]) -> None:
        self._keyring = keyring
        self._settings = settings

    @property
    def asks(self) -> bool:
        """Whether anybody is asked who they are."""
        return self._keyring.door(self._settings().access) is not None

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Identity | None:
        """Return who asks; None where that does not matter. Raises Unauthenticated, PermissionDenied."""
        if (method in ("GET", "HEAD") and path == "/api/ready") or (door := self._keyring.door(self._settings().access)) is None:
            return None
        identity = door.identify(headers, time.time())
        role, model, whole = need(method, path)
        if whole:
            identity.demand_all(role)
        else:
            identity.demand(role, model)
        return identity


def need(method: str, path: str) -> tuple[Role, str, bool]:
    """Return the role that a request needs, the model that it is for ("" = any), and whether it is needed for the whole engine."""
    parts = [p for p in path.split("/") if p]
    match method, parts:
        case _, ["api", "keys", *_]:
            return Role.admin, "", True
        case "POST", ["api", "approvals", _, "approve"]:
            return Role.approver, "", False
        case "POST", ["api", "approvals", _, "reject"]:
            # who has asked may withdraw it
            return Role.deployer, "", False
        case "GET" | "HEAD", ["api", "target" | "revisions", *_] | ["api", "approvals", _]:
            # whole files, with the URLs of webhooks
            return Role.deployer, "", False
        case "GET" | "HEAD", _:
            return Role.viewer, "", False
        case "POST", ["api", "apply" | "plan"]:
            # a plan looks at the files that it is given, on this machine
            return Role.deployer, "", False
        case _, ["api", "models", model, *_]:
            return Role.deployer, model, False
    return Role.admin, "", True


def permitted(identity: Identity | None, edit: Callable[[Target], Target]) -> Callable[[Target], Target]:
    """Return `edit`, which then raises PermissionDenied where it changes models or settings that are not this one's to change."""

    def checked(now: Target) -> Target:
        after = edit(now)
        if identity is not None:
            for model in dict.fromkeys([*now.routes.routes, *after.routes.routes]):
                if part(now, model) != part(after, model):
                    identity.demand(Role.deployer, model)
            if now.settings != after.settings:
                identity.demand_all(Role.admin)
        return after

    return checked
