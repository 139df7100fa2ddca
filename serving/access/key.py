"""API keys. A key is shown once, when it is made; what is kept is the hash of its secret.

    srv_ID_SECRET    ID: 12 letters and digits, not secret, finds the record;  SECRET: 43 letters for 256 random bits

The hash is one SHA-256 without salt or stretching: those make guessing a human's password dear, and nobody guesses 256 random bits.
What comes with each request has to be cheap to check.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any, Self

from serving.access.identity import Grant, Identity, Quota

PREFIX = "srv_"
_KEY = re.compile(r"srv_([a-z0-9]{12})_([A-Za-z0-9_-]{43})\Z")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class KeyHash:
    """What a gateway is told of a key. digest: SHA-256 of its secret, in hex. until: seconds since 1970, 0.0 = it does not expire."""

    id: str
    digest: str
    name: str
    grants: tuple[str, ...]
    until: float = 0.0
    requests_per_s: float = 0.0
    burst: int = 0
    inflight_requests: int = 0

    @property
    def identity(self) -> Identity:
        """Return whom the key stands for."""
        grants = tuple(map(Grant.of, self.grants))
        return Identity(self.name, grants, self.until, Quota(self.requests_per_s, self.burst, self.inflight_requests))

    def opens(self, secret: str) -> bool:
        """Whether this is its secret; takes the same time whatever is wrong with it."""
        return hmac.compare_digest(digest_of(secret), self.digest)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "grants": tuple(value["grants"])})


def new_key() -> tuple[str, str, str]:
    """Return a new key, its id and the digest of its secret."""
    number = "".join(secrets.choice(_ALPHABET) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    return f"{PREFIX}{number}_{secret}", number, digest_of(secret)


def parts_of(key: str) -> tuple[str, str] | None:
    """Return id and secret of what looks like a key, else None."""
    found = _KEY.match(key)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()
