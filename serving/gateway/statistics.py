"""The statistics of models, over all gateways: collected when a client asks, so that it does not matter which gateway answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from serving.errors import InvalidArgument, Unavailable
from serving.gateway.service import Service
from serving.protocol.statistics import ModelStatistics, not_available
from serving.statistics import VersionStatistics

Source = Callable[[str], Future[dict[tuple[str, str], VersionStatistics]]]
"""source(model, "" = all) -> what all gateways together have counted by now, by (model, version). Called in the gateway's loop."""


class Statistics:
    """What one gateway answers. `source` is there once the gateway has its place at the edge."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.source: Source | None = None

    async def of(self, model: str, version: str) -> list[ModelStatistics]:
        """Return the statistics of a version, of all versions of a model (version ""), or of all models (both "").

        Raises InvalidArgument for what is not served, Unavailable where the gateways cannot be asked.
        """
        wanted = self._wanted(model, version)
        if self.source is None:
            raise Unavailable("statistics are not there: this gateway has no place at the edge", retry_after_s=1.0)
        found = await asyncio.wrap_future(self.source(model))
        nothing = VersionStatistics()
        return [ModelStatistics(*key, found.get(key, nothing)) for key in wanted]

    def _wanted(self, model: str, version: str) -> list[tuple[str, str]]:
        models = self._service.versions.models()
        served = [(route.endpoint, v) for route, versions in models for v in versions if model in ("", route.endpoint)]
        if model and not served:
            raise InvalidArgument(not_available(model))
        if version:
            served = [key for key in served if key[1] == version]
            if not served:
                raise InvalidArgument(not_available(model, version))
        return served
