"""The message classes of `inference.GRPCInferenceService`, in a descriptor pool of our own.

tritonclient ships the descriptors, but importing its `service_pb2` enters them into the default pool, where a model's
own stubs (kserve, MLServer, anything else made from the same proto) then fail with "duplicate symbol". So the compiled
module is found without importing its package, and the serialized descriptor is taken from its constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, Final

from google.protobuf import descriptor_pb2, message
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from serving.errors import DecodeError

_MODULES: Final = ("model_config_pb2", "service_pb2")


def _descriptors() -> Iterator[bytes]:
    """Yield the serialized files, those that others need first. Raises ImportError when tritonclient has none."""
    package = find_spec("tritonclient")  # a top-level name: this runs no code of the package
    if package is None:
        raise ImportError("tritonclient is not installed: its gRPC descriptors are needed (pip install 'tritonclient[grpc]')")
    folders = [f"{place}/grpc" for place in package.submodule_search_locations or ()]
    for module in _MODULES:
        found = PathFinder.find_spec(module, folders)
        code = found.loader.get_code(module) if found is not None and isinstance(found.loader, InspectLoader) else None
        constants = [c for c in code.co_consts if isinstance(c, bytes)] if code is not None else []
        if not constants:
            raise ImportError(f"tritonclient.grpc.{module} holds no serialized descriptor: is tritonclient[grpc] installed?")
        yield max(constants, key=len)


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for serialized in _descriptors():
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    return pool


POOL: Final = _pool()


def _message(name: str) -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ModelInferRequest: Final = _message("ModelInferRequest")
ModelInferResponse: Final = _message("ModelInferResponse")
ModelStreamInferResponse: Final = _message("ModelStreamInferResponse")
ServerLiveResponse: Final = _message("ServerLiveResponse")
ServerReadyResponse: Final = _message("ServerReadyResponse")
ServerMetadataResponse: Final = _message("ServerMetadataResponse")
ModelReadyRequest: Final = _message("ModelReadyRequest")
ModelReadyResponse: Final = _message("ModelReadyResponse")
ModelMetadataRequest: Final = _message("ModelMetadataRequest")
ModelMetadataResponse: Final = _message("ModelMetadataResponse")
ModelStatisticsResponse: Final = _message("ModelStatisticsResponse")
SystemSharedMemoryStatusRequest: Final = _message("SystemSharedMemoryStatusRequest")
SystemSharedMemoryStatusResponse: Final = _message("SystemSharedMemoryStatusResponse")
SystemSharedMemoryRegisterRequest: Final = _message("SystemSharedMemoryRegisterRequest")
TraceSettingRequest: Final = _message("TraceSettingRequest")
TraceSettingResponse: Final = _message("TraceSettingResponse")
LogSettingsRequest: Final = _message("LogSettingsRequest")
LogSettingsResponse: Final = _message("LogSettingsResponse")
RepositoryIndexRequest: Final = _message("RepositoryIndexRequest")
RepositoryIndexResponse: Final = _message("RepositoryIndexResponse")
RepositoryModelLoadRequest: Final = _message("RepositoryModelLoadRequest")
RepositoryModelUnloadRequest: Final = _message("RepositoryModelUnloadRequest")
ModelConfig: Final = _message("ModelConfig")
ModelConfigResponse: Final = _message("ModelConfigResponse")


def parse(kind: Any, data: bytes) -> Any:
    """Return the message of that kind. Raises DecodeError."""
    try:
        return kind.FromString(data)
    except (message.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"cannot parse {kind.DESCRIPTOR.name}: {error}") from None
