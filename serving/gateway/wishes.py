"""What clients ask of the whole engine: shared memory, trace and log settings. Read from what this gateway knows, changed at the desk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from serving.errors import InvalidArgument, Unsupported
from serving.gateway.desk import DeskClient
from serving.gateway.errand import Run, grpc_errand
from serving.gateway.grpc_out import GrpcOut
from serving.gateway.head import Action, Head
from serving.gateway.regions import DISABLED
from serving.gateway.service import Service
from serving.inference import Buffer
from serving.protocol import memory, settings

Read = Callable[[Head, Buffer], Buffer]
GET, POST = (b"GET", b"HEAD"), (b"POST",)
BOTH = (*GET, *POST)
"""A GET has no body, and so changes nothing."""


class WishDesk:
    """The questions, in plain values. Every method raises ServingError for the client."""

    def __init__(self, service: Service, desk: DeskClient) -> None:
        self._service = service
        self._desk = desk

    def regions(self, name: str) -> list[Any]:
        return memory.find(self._service.wishes.regions, name)

    async def register(self, asked: dict[str, Any]) -> None:
        if not self._service.regions.allowed:
            raise Unsupported(DISABLED)
        await self._desk.ask("shm_register", **asked)

    async def unregister(self, name: str) -> None:
        """Forget the region, all for ""; one that is not there is forgotten already."""
        known = self._service.wishes.regions
        if any(not name or r.name == name for r in known):
            await self._desk.ask("shm_unregister", region=name)

    async def trace(self, model: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Change trace settings where there are new ones; return what holds."""
        self._check_model(model)
        new = settings.check_trace(asked)
        if not new:
            return settings.trace_of(self._service.wishes.trace, model)
        return settings.trace_of((await self._desk.ask("trace", model=model, settings=new))["trace"], model)

    async def log(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Change log settings where there are new ones; return what holds."""
        new = settings.check_log(asked)
        if not new:
            return settings.log_of(self._service.wishes.log)
        return settings.log_of((await self._desk.ask("log", settings=new))["log"])

    def _check_model(self, model: str) -> None:
        if model and all(route.endpoint != model for route, _ in self._service.versions.models()):
            raise InvalidArgument(f"Request for unknown model : {model}")


def rest_run(desk: WishDesk, parts: list[str]) -> tuple[tuple[bytes, ...], Run] | None:
    """Return the methods that a path below v2 takes and what answers it, None where none of this is meant."""
    match parts:
        case ["systemsharedmemory", "status"]:
            return GET, partial(_status, desk, "")
        case ["systemsharedmemory", "region", name, "status"]:
            return GET, partial(_status, desk, name)
        case ["systemsharedmemory", "region", name, "register"]:
            return POST, partial(_register, desk, name)
        case ["systemsharedmemory", "unregister"]:
            return POST, partial(_unregister, desk, "")
        case ["systemsharedmemory", "region", name, "unregister"]:
            return POST, partial(_unregister, desk, name)
        case ["cudasharedmemory", "status"]:
            return GET, partial(_cuda_status, "")
        case ["cudasharedmemory", "region", name, "status"]:
            return GET, partial(_cuda_status, name)
        case ["cudasharedmemory", "region", name, "register"]:
            return POST, partial(_cuda_register, name)
        case ["cudasharedmemory", "unregister"] | ["cudasharedmemory", "region", _, "unregister"]:
            return POST, _nothing
        case ["trace", "setting"]:
            return BOTH, partial(_trace, desk, "")
        case ["models", model, "trace", "setting"]:
            return BOTH, partial(_trace, desk, model)
        case ["models", model, "versions", version, "trace", "setting"] if version.isdecimal():
            return BOTH, partial(_trace, desk, model)  # settings are of a model, whichever version is asked
        case ["systemsharedmemory" | "cudasharedmemory" as kind, "register"]:
            return POST, partial(_nameless, kind.removesuffix("sharedmemory"))
        case ["logging"]:
            return BOTH, partial(_log, desk)
    return None


async def _status(desk: WishDesk, name: str, body: bytes) -> bytes:
    return memory.status_json(desk.regions(name))


async def _register(desk: WishDesk, name: str, body: bytes) -> bytes:
    await desk.register(memory.read_register(name, body))
    return b""


async def _nameless(kind: str, body: bytes) -> bytes:
    raise InvalidArgument(f"'region name' is necessary to register {kind} shared memory region")


async def _unregister(desk: WishDesk, name: str, body: bytes) -> bytes:
    await desk.unregister(name)
    return b""


async def _cuda_status(name: str, body: bytes) -> bytes:
    return memory.status_json(memory.find((), name, "cuda"))


async def _cuda_register(name: str, body: bytes) -> bytes:
    raise memory.no_cuda(name)


async def _nothing(body: bytes) -> bytes:
    return b""


async def _trace(desk: WishDesk, model: str, body: bytes) -> bytes:
    return settings.as_json(await desk.trace(model, settings.read_json(body)))


async def _log(desk: WishDesk, body: bytes) -> bytes:
    return settings.as_json(await desk.log(settings.read_json(body)))


def grpc_actions(desk: WishDesk, out: GrpcOut, read: Read) -> dict[str, Action]:
    """Return the actions by the names of the methods. read: from a body to its one message."""

    async def status(message: bytes) -> bytes:
        return memory.status_message(desk.regions(memory.read_name(message)))

    async def register(message: bytes) -> bytes:
        await desk.register(memory.read_register_message(message))
        return b""

    async def unregister(message: bytes) -> bytes:
        await desk.unregister(memory.read_name(message))
        return b""

    async def cuda_status(message: bytes) -> bytes:
        memory.find((), memory.read_name(message), "cuda")
        return b""

    async def cuda_register(message: bytes) -> bytes:
        raise memory.no_cuda(memory.read_name(message))

    async def trace(message: bytes) -> bytes:
        model, asked = settings.read_trace_message(message)
        return settings.trace_message(await desk.trace(model, asked))

    async def log(message: bytes) -> bytes:
        return settings.log_message(await desk.log(settings.read_log_message(message)))

    methods = {
        "SystemSharedMemoryStatus": status,
        "SystemSharedMemoryRegister": register,
        "SystemSharedMemoryUnregister": unregister,
        "CudaSharedMemoryStatus": cuda_status,
        "CudaSharedMemoryRegister": cuda_register,
        "CudaSharedMemoryUnregister": _nothing,
        "TraceSetting": trace,
        "LogSettings": log,
    }
    return {name: grpc_errand(out, read, run) for name, run in methods.items()}
