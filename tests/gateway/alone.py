"""A whole gateway with its model in the same loop: no edge, no replica, no Ray."""

from __future__ import annotations

import shutil
import socket
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from serving.access.settings import AccessRules
from serving.gateway.call import Description
from serving.gateway.local import LocalChannel
from serving.gateway.server import GatewayServer
from serving.inference import Buffer, InferResponse, Layout, TensorLayout
from serving.routing import Route, RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (-1,)),), (TensorSpec("y", DType.FP32, (-1,)),), 8)


class LoneGateway:
    """Serves the model `m`, which gives back what it gets. `tcp` and `unix` are its addresses; `faults` must stay empty."""

    def __init__(self, limits: GatewayLimits | None = None) -> None:
        self.directory = tempfile.mkdtemp(prefix="lone-")
        self.faults: list[dict[str, Any]] = []
        self.unix = str(Path(self.directory) / "g.sock")
        tcp = socket.create_server(("127.0.0.1", 0))
        self.tcp: tuple[str, int] = tcp.getsockname()
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(self.unix)
        unix.listen()
        self.server = GatewayServer("lone", self.directory)
        self.server.start([tcp, unix])
        self.revision = 0
        self.limit(limits or GatewayLimits())
        self.in_loop(self._attach)

    def _attach(self) -> None:
        host = self.host
        loop = self.server._loop
        loop.set_exception_handler(lambda loop, fault: self.faults.append(fault))
        host.service.attach(LocalChannel(loop, host.service.calls.deliver, [Description("m", "1", SIGNATURE, "here")], _echo))

    def limit(self, limits: GatewayLimits, access: AccessRules | None = None, base_path: str = "") -> None:
        """Apply other limits, and who may ask under which path."""
        self.revision += 1
        self.server.apply(
            GatewayState(RouteTable(self.revision, {"m": Route("m", "1", ("1",))}), limits, access=access, base_path=base_path)
        )

    @property
    def host(self) -> Any:
        return self.server._host

    def in_loop(self, act: Any) -> Any:
        """Run it in the gateway's loop and return what it returns."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(act())
            except BaseException as error:
                done.set_exception(error)

        self.server._loop.call_soon_threadsafe(run)
        return done.result(60)

    def close(self) -> None:
        self.server.stop()
        shutil.rmtree(self.directory)


def _echo(layout: Layout, payload: Buffer) -> InferResponse:
    tensor = layout.tensors[0]
    return InferResponse("m", "1", Layout((TensorLayout("y", tensor.dtype, tensor.shape, tensor.nbytes),)), payload)
