"""What a request needs its sender to be allowed: the role, and for which model. One table for REST, one for gRPC. Pure.

Health is open to all. What is not in the tables is refused to everybody but an admin, so that a new endpoint is closed until it is
written down here; what only reads (GET) is open to viewers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving.access.identity import Role
from serving.protocol.protobuf import pieces

_INFERENCE = "/inference.GRPCInferenceService/"


@dataclass(frozen=True, slots=True)
class Need:
    """One demand.

    role     None: open to all
    model    of the path; "" where it is in the body, or where none is meant
    whole    the role is needed for the whole engine, not for some models
    field    gRPC: number of the field of the request that names the model; 0 = none. Without a name the whole engine is meant
    writes   gRPC: number of the field that makes the call a change; without it a viewer may call
    """

    role: Role | None
    model: str = ""
    whole: bool = False
    field: int = 0
    writes: int = 0


OPEN: Final = Need(None)
_LOOK: Final = Need(Role.viewer)
_ADMIN: Final = Need(Role.admin, whole=True)
_MEMORY: Final = Need(Role.predictor, whole=True)
"""Regions of shared memory belong to nobody: who registers one lets all models read and write it."""

_GRPC: Final = {
    "ServerLive": OPEN,
    "ServerReady": OPEN,
    "ServerMetadata": _LOOK,
    "ModelReady": Need(Role.viewer, field=1),
    "ModelMetadata": Need(Role.viewer, field=1),
    "ModelConfig": Need(Role.viewer, field=1),
    "ModelStatistics": Need(Role.viewer, field=1),
    "ModelInfer": Need(Role.predictor),
    "ModelStreamInfer": Need(Role.predictor),
    "RepositoryIndex": Need(Role.viewer, whole=True),
    "RepositoryModelLoad": Need(Role.deployer, field=2),
    "RepositoryModelUnload": Need(Role.deployer, field=2),
    "SystemSharedMemoryStatus": _MEMORY,
    "SystemSharedMemoryRegister": _MEMORY,
    "SystemSharedMemoryUnregister": _MEMORY,
    "CudaSharedMemoryStatus": _MEMORY,
    "CudaSharedMemoryRegister": _MEMORY,
    "CudaSharedMemoryUnregister": _MEMORY,
    "TraceSetting": Need(Role.deployer, field=2, writes=1),
    "LogSettings": Need(Role.admin, whole=True, writes=1),
}
_GRPC_INFER: Final = frozenset((_INFERENCE + "ModelInfer", _INFERENCE + "ModelStreamInfer"))


def of_grpc(path: str) -> Need:
    """Return what a method needs."""
    if path.startswith("/grpc.health.v1.Health/"):
        return OPEN
    if path.startswith("/grpc.reflection."):
        return _LOOK
    return _GRPC.get(path.removeprefix(_INFERENCE), _ADMIN)


def names_in_body(path: str) -> bool:
    """Whether predictions look at the model themselves, when they have decoded it anyway."""
    return path in _GRPC_INFER


def of_message(need: Need, message: bytes | memoryview) -> Need:
    """Return what a gRPC request needs, now that its message is here. Raises DecodeError."""
    found = {number: piece for number, piece in pieces(message) if number in (need.field, need.writes)}
    role = need.role if not need.writes or need.writes in found else Role.viewer
    if not need.field:
        return Need(role, whole=need.whole and role is need.role)
    model = str(found[need.field], "utf-8", "replace") if need.field in found else ""
    return Need(role, model, whole=not model)


def of_rest(method: bytes, path: str) -> Need:
    """Return what a method and path need."""
    reads = method in (b"GET", b"HEAD")
    parts = [p for p in path.split("/") if p]
    match parts:
        case ["v2", "health", *_] | ["edge", "health"]:
            return OPEN
        case ["v2", "models", "stats"]:
            return Need(Role.viewer, whole=True)
        case ["v2", "models", model, "versions", _, *rest] | ["v2", "models", model, *rest]:
            return _of_model(reads, model, rest)
        case ["v2", "repository", "index"]:
            return Need(Role.viewer, whole=True)
        case ["v2", "repository", "models", model, "load" | "unload"]:
            return Need(Role.deployer, model)
        case ["v2", "systemsharedmemory" | "cudasharedmemory", *_]:
            return _MEMORY
        case ["v1", "models", name]:
            model, colon, _ = name.partition(":")
            return Need(Role.predictor if colon else Role.viewer, model)
    return _LOOK if reads else _ADMIN


def _of_model(reads: bool, model: str, rest: list[str]) -> Need:
    if rest in (["infer"], ["generate"], ["generate_stream"]):
        return Need(Role.predictor, model)
    return Need(Role.viewer if reads else Role.deployer, model)
