"""author_of: whose name a change is recorded under. The one place that decides it."""

from __future__ import annotations

from fastapi import Request

from serving.access.identity import Identity

UNNAMED = "api"
"""Who gave no name."""


def identity_of(request: Request) -> Identity | None:
    """Return who asks, None while that does not matter."""
    found: Identity | None = getattr(request.state, "identity", None)
    return found


def author_of(request: Request, told: str) -> str:
    """Return who wants what the request asks for: who has been identified, and while access is off, who it says it is."""
    identity = identity_of(request)
    if identity is not None:
        return identity.name
    return told.strip()[:200] or UNNAMED
