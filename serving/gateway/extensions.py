"""Which extensions of the protocol this gateway has: clients switch features on by this list."""

from __future__ import annotations

from serving.gateway.service import Service
from serving.protocol import metadata


def extensions(service: Service) -> tuple[str, ...]:
    """Return the names, those included that are switched on."""
    return (*metadata.EXTENSIONS, *(metadata.SHARED_MEMORY if service.regions.allowed else ()))
