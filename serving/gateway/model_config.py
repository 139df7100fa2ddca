"""The ModelConfig of what a gateway serves, for both protocols."""

from __future__ import annotations

from typing import Any

from serving.gateway.service import Service
from serving.protocol import model_config


def config_of(service: Service, model: str, version: str) -> Any:
    """Return the message for the version that `Versions.resolve` finds. Raises as it does."""
    served = service.versions.resolve(model, version)
    (versions,) = [route.versions for route, _ in service.versions.models() if route.endpoint == model]
    return model_config.make(model, served.signature, served.platform, served.details, versions, len(served.pool))
