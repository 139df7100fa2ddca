"""GrpcTarget: a server over gRPC, asked with grpcio. Messages are those of tritonclient, in the pool of `protocol/schema.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from serving.bench.target import ModelInfo, ServerAddress, ServerInfo, index_names, model_info, unknown_asker, unknown_model
from serving.errors import InvalidArgument, NotFound, ServingError, Unavailable
from serving.protocol.schema import POOL

ASK_TIMEOUT_S = 10.0
INFER_TIMEOUT_S = 60.0
SERVICE = "/inference.GRPCInferenceService"
PREFIX_BYTES = 5
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)
"""No proxy: what is measured is the server. Connections of one channel are its own, else channels to one address share them."""


def message(name: str) -> Any:
    """Return the class of a message of the service, such as "ModelConfigRequest"."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


def credentials(address: ServerAddress) -> grpc.ChannelCredentials:
    """Return the TLS settings for a channel. Raises InvalidArgument for files that cannot be read."""
    tls = address.tls
    if not tls.verify:
        raise InvalidArgument("gRPC over TLS without looking at the certificate is not possible; give it as --tls-ca")
    try:
        ca, certificate, key = (
            Path(name).read_bytes() if name else None for name in (tls.ca_file, tls.certificate, tls.key or tls.certificate)
        )
    except OSError as error:
        raise InvalidArgument(f"the files for TLS cannot be used: {error}") from None
    return grpc.ssl_channel_credentials(ca, key if certificate else None, certificate)


class GrpcTarget:
    """See `target.Target`."""

    def __init__(self, address: ServerAddress, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.address = address
        self._headers = headers
        self._server: ServerInfo | None = None
        if address.secure:
            self._channel = grpc.secure_channel(address.netloc, credentials(address), options=OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.netloc, options=OPTIONS)

    def server(self) -> ServerInfo:
        if self._server is None:
            try:
                said = self._ask("ServerMetadata", {})
            except _Status as status:
                self._admitted(status)
                raise InvalidArgument(
                    f"{self.address.url} does not speak the Open Inference Protocol: ServerMetadata answered {status}"
                ) from None
            self._server = ServerInfo(said.get("name", ""), said.get("version", ""), tuple(said.get("extensions", ())))
        return self._server

    def ready(self, model: str, version: str = "") -> bool:
        try:
            return bool(self._ask("ModelReady", {"name": model, "version": version}).get("ready", False))
        except _Status:
            return False

    def model(self, name: str, version: str = "") -> ModelInfo:
        asked = {"name": name, "version": version}
        try:
            said = self._ask("ModelMetadata", asked)
        except _Status as status:
            if status.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise unknown_model(name, version, status.words, self._models()) from None
            self._admitted(status)
            raise Unavailable(f"{self.address.url} does not describe model '{name}': {status}") from None
        config = None
        if self.server().has("model_configuration"):
            try:
                config = self._ask("ModelConfig", asked).get("config")
            except _Status:
                config = None
        return model_info(name, version, said, config)

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]] | None:
        try:
            return list(self._ask("ModelStatistics", {"name": model, "version": version}).get("model_stats", ()))
        except _Status:
            return None

    def infer(self, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
        try:
            return self._call(path, body[PREFIX_BYTES:], INFER_TIMEOUT_S, headers)
        except _Status as status:
            kind = {grpc.StatusCode.NOT_FOUND: NotFound, grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument}.get(status.code, ServingError)
            raise kind(f"the server answered {status}") from None

    def close(self) -> None:
        self._channel.close()

    def _admitted(self, status: _Status) -> None:
        if status.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise unknown_asker(self.address, str(status)) from None

    def _models(self) -> list[str]:
        try:
            return index_names(self._ask("RepositoryIndex", {}))
        except (_Status, Unavailable):
            return []

    def _ask(self, method: str, asked: dict[str, str]) -> dict[str, Any]:
        """Return the answer as JSON values with the names of the proto; 64-bit numbers are text then. Raises _Status."""
        request = message(f"{method}Request")(**asked)
        answer = message(f"{method}Response").FromString(self._call(f"{SERVICE}/{method}", request.SerializeToString(), ASK_TIMEOUT_S))
        said: dict[str, Any] = MessageToDict(answer, preserving_proto_field_name=True)
        return said

    def _call(self, path: str, body: bytes, timeout_s: float, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
        try:
            return bytes(self._channel.unary_unary(path)(body, timeout=timeout_s, metadata=self._headers + headers))
        except grpc.RpcError as error:
            code, words = error.code(), str(error.details() or "")
            if code is grpc.StatusCode.UNAVAILABLE and "connect" in words.lower():
                raise Unavailable(
                    f"{self.address.url} cannot be reached ({words}); is the server up, and is this its port of gRPC?"
                ) from None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Unavailable(f"{self.address.url} does not answer {path}") from None
            raise _Status(code, words) from None


class _Status(Exception):
    """A call that ended with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        super().__init__(f"{code.name}: {words}")
        self.code = code
        self.words = words
