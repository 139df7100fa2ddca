"""Edge: the Ray Serve shell around an EdgeKeeper and the watch, one per node."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.cluster import serve_api
from serving.cluster.shell import enter
from serving.cluster.watch import Watch
from serving.edge import EdgeConfig, EdgeKeeper, EdgeMode
from serving.errors import ServingError

DRAIN_S = 30.0


class Edge:
    """The keeper process of one node."""

    def __init__(self, boot: str, mode: EdgeMode, slots: int) -> None:
        told, _ = enter(boot, "edge")
        self._keeper = EdgeKeeper(
            EdgeConfig(
                run_dir=told.run_dir,
                http_port=told.http_port,
                grpc_port=told.grpc_port,
                metrics_port=told.metrics_port,
                host=told.host,
                slots=slots,
                edge=mode,
                tls_certificate=told.tls_certificate,
                tls_key=told.tls_key,
                tls_client_ca=told.tls_client_ca,
            )
        )
        try:
            self._keeper.start()
        except ServingError as error:
            raise serve_api.cannot_start(error.message) from error
        self._watch = Watch(Path(told.run_dir))
        self._watch.start()

    def check_health(self) -> None:
        self._keeper.healthy()

    async def last_call(self) -> None:
        """Have the doors closed with the last gateway: called when the engine ends."""
        await asyncio.to_thread(self._keeper.last_call)

    async def __del__(self) -> None:
        await asyncio.to_thread(self._watch.stop)
        await asyncio.to_thread(self._keeper.close, DRAIN_S - 5.0)
