"""The gRPC face: length-prefixed messages in, messages and a status out, over HTTP/2 or as the edge hands it on (see `grpc_out.py`).

Unary calls take the same way as REST. Streams are in `stream.py`. No grpc import: frames and messages come from `protocol/`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from serving import VERSION
from serving.errors import Code, DecodeError, NotFound, ServingError, Unsupported, from_code
from serving.gateway import reflection
from serving.gateway.call import Call
from serving.gateway.desk import DeskClient
from serving.gateway.door import check_grpc
from serving.gateway.errand import grpc_errand
from serving.gateway.extensions import extensions
from serving.gateway.grpc_out import GrpcExchange, GrpcOut
from serving.gateway.head import Action, Head
from serving.gateway.model_config import config_of
from serving.gateway.offload import OFFLOAD_BYTES, offload
from serving.gateway.reflection import ReflectionStream
from serving.gateway.repository import Repository
from serving.gateway.service import Service
from serving.gateway.special import submit
from serving.gateway.statistics import Statistics
from serving.gateway.stream import InferStream, WatchStream, check_streams, check_version
from serving.gateway.wishes import WishDesk, grpc_actions
from serving.inference import Buffer, InferResponse, Layout
from serving.protocol import messages, model_config, statistics
from serving.protocol.compression import MIN_RESPONSE_BYTES, Encoding, grpc_response_encoding
from serving.protocol.grpc_frame import MessageReader, decompress, parse_timeout, prefixed_compressed, whole_message
from serving.protocol.grpc_head import Splitter
from serving.protocol.messages import Health

INFERENCE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
SERVICES = (INFERENCE, HEALTH, "/grpc.reflection.")
"""What the paths of gRPC calls begin with."""
HEALTH_NAMES = ("", "inference.GRPCInferenceService")


class GrpcApi:
    """Finds the method of a call and runs it. One for each way of writing answers."""

    def __init__(self, service: Service, out: GrpcOut, desk: DeskClient, counts: Statistics) -> None:
        self._service = service
        self._counts = counts
        self._errands = {INFERENCE + name: run for name, run in Repository(desk).grpc.items()}
        self._out = out
        self._fail = out.fail
        self._write = out.answer
        self._split = Splitter().split
        self._streams: set[InferStream | WatchStream | ReflectionStream] = set()
        wishes = grpc_actions(WishDesk(service, desk), out, self.message)
        self._actions = {INFERENCE + method: action for method, action in wishes.items()} | reflection.actions(out, self._streams)
        self._unary: dict[str, Callable[[Buffer], bytes]] = {
            INFERENCE + "ServerLive": lambda message: messages.server_live(True),
            INFERENCE + "ServerReady": lambda message: messages.server_ready(self._service.ready),
            INFERENCE + "ServerMetadata": lambda message: self._server_metadata(),
            INFERENCE + "ModelReady": self._model_ready,
            INFERENCE + "ModelMetadata": self._model_metadata,
            INFERENCE + "ModelConfig": self._model_config,
            HEALTH + "Check": self._health_check,
        }

    def route(self, head: Head) -> Action:
        """Return the action of a method's path; unknown ones answer UNIMPLEMENTED."""
        path = head.path
        if path == INFERENCE + "ModelInfer":
            encoding = grpc_response_encoding(_header(head, b"grpc-encoding"), _header(head, b"grpc-accept-encoding"))
            answer = partial(self._answer, encoding=encoding) if encoding else self._answer
            return Action(self._infer, answer, self._fail)
        if path == INFERENCE + "ModelStreamInfer":
            return Action(self._open_infer_stream, None, self._fail, streams=True)
        if path == HEALTH + "Watch":
            return Action(self._open_watch, None, self._fail)
        if path == INFERENCE + "ModelStatistics":
            return grpc_errand(self._out, self.message, self._statistics)
        if (errand := self._errands.get(path)) is not None:
            return grpc_errand(self._out, self.message, errand)
        action = self._actions.get(path)
        if action is not None:
            return action
        run = self._unary.get(path)
        if run is None:
            return Action(
                lambda connection, head, body: self._fail(connection, Unsupported(f"method {path} is not there")), None, self._fail
            )
        return Action(lambda connection, head, body: self._write(connection, [run(self.message(head, body))]), None, self._fail)

    # Predictions ---------------------------------------------------------------------------------------------------

    def _infer(self, connection: GrpcExchange, head: Head, body: Buffer) -> None:
        timeout = connection.grpc_timeout
        deadline = monotonic() + parse_timeout(timeout.decode("latin-1")) if timeout else 0.0
        whole = whole_message(body)
        if whole is not None:
            self._submit(connection, deadline, whole.data)
        elif len(body) < OFFLOAD_BYTES:
            self._submit(connection, deadline, self.message(head, body))
        else:
            offload(connection, partial(self.message, head, body), partial(self._submit, connection, deadline))

    def _submit(self, connection: GrpcExchange, deadline: float, message: Buffer) -> None:
        service = self._service
        head = connection.head
        asked = self._split(message)
        if head.visitor is not None:
            head.visitor.check(asked.model)
        try:
            served = service.versions.resolve(asked.model, asked.version, connection, asked)
        except NotFound:
            check_version(asked.version)
            raise
        if served.decoupled:
            raise Unsupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
        client = service.ask(served, connection.client) if service.clients is not None else None
        check_grpc(service, served, asked.head_bytes)
        request, plan = served.grpc.decode(asked)
        if head.forwarded:
            service.forwarding.put(request, head.forwarded)
        request.deadline = deadline
        connection.work = submit(service, served, request, connection, plan, "grpc", client)

    def _answer(self, connection: GrpcExchange, call: Call, response: InferResponse, encoding: Encoding | None = None) -> None:
        """Answer a call; `encoding`: its client compresses what it sends."""
        if response.code is not Code.OK:
            self._fail(connection, from_code(response.code, response.message, response.retry_after_s))
            return
        try:
            parts = call.served.grpc.encode(call.plan, response)
        except ServingError as error:
            self._fail(connection, error)
            return
        if encoding is None:
            self._write(connection, parts)
        else:
            self._write_compressed(connection, parts, response.layout, encoding)

    def _write_compressed(self, connection: GrpcExchange, parts: list[Buffer], layout: Layout | None, encoding: Encoding) -> None:
        """Answer a client that compresses what it sends, compressed where that is worth it."""
        if layout is None or layout.payload_bytes < MIN_RESPONSE_BYTES:
            self._write(connection, parts)
        elif layout.payload_bytes < OFFLOAD_BYTES:
            self._out.answer_compressed(connection, prefixed_compressed(parts, encoding), encoding)
        else:
            work = partial(prefixed_compressed, parts, encoding)
            offload(connection, work, lambda data: self._out.answer_compressed(connection, data, encoding))

    def message(self, head: Head, body: Buffer) -> Buffer:
        """Return the one message of a unary call. Raises DecodeError where the body is not exactly one."""
        whole = whole_message(body)
        if whole is not None:
            return whole.data
        limit = self._service.limits.max_body_bytes
        reader = MessageReader(limit)
        found = list(reader.feed(bytes(body)))
        reader.finish()
        if len(found) != 1:
            raise DecodeError(f"a unary call carries one message, got {len(found)}")
        return decompress(found[0], head.headers.get(b"grpc-encoding", b"").decode("latin-1"), self._service.limits.max_decompressed_bytes)

    # Streams -------------------------------------------------------------------------------------------------------

    def _open_infer_stream(self, connection: GrpcExchange, head: Head, body: Buffer) -> None:
        check_streams(connection)
        stream = InferStream(self._service, self._split, connection, self._out, head, self._streams)
        if connection.host.draining:
            stream.drain()

    def _open_watch(self, connection: GrpcExchange, head: Head, body: Buffer) -> None:
        check_streams(connection)
        name = messages.decode_health(self.message(head, body))
        stream = WatchStream(connection, self._out, self._streams, name, _health(name, self._service.ready))
        if connection.host.draining:
            stream.drain()

    def watch(self) -> None:
        """Tell the watchers of health what has changed (called about twice a second and after each new state)."""
        if not self._streams:
            return
        ready = self._service.ready
        for stream in list(self._streams):
            if isinstance(stream, WatchStream):
                stream.update(_health(stream.name, ready))

    def drain(self) -> None:
        """End all streams: each gets the answers to what it sent, then UNAVAILABLE."""
        for stream in list(self._streams):
            stream.drain()

    # Health and metadata -------------------------------------------------------------------------------------------

    def _health_check(self, message: Buffer) -> bytes:
        status = _health(messages.decode_health(message), self._service.ready)
        if status is Health.SERVICE_UNKNOWN:
            raise NotFound("no such service; try '' or 'inference.GRPCInferenceService'")
        return messages.health(status)

    def _server_metadata(self) -> bytes:
        return messages.server_metadata(self._service.server_name, VERSION, extensions(self._service))

    def _model_ready(self, message: Buffer) -> bytes:
        model, version = messages.decode_model(message)
        try:
            ready = self._service.versions.resolve(model, version).ready
        except ServingError:
            ready = False
        return messages.model_ready(ready)

    async def _statistics(self, message: bytes) -> bytes:
        model, version = messages.decode_model(message)
        check_version(version)
        return statistics.to_message(await self._counts.of(model, version))

    def _model_metadata(self, message: Buffer) -> bytes:
        model, version = messages.decode_model(message)
        try:
            served = self._service.versions.resolve(model, version)
        except NotFound:
            check_version(version)
            raise
        versions = [version] if version else self._service.versions.ready_of(model)
        return messages.model_metadata(model, versions, served.platform, served.signature)

    def _model_config(self, message: Buffer) -> bytes:
        model, version = messages.decode_model(message)
        try:
            return model_config.as_message(config_of(self._service, model, version))
        except NotFound:
            check_version(version)
            raise


def _header(head: Head, name: bytes) -> str:
    return head.headers.get(name, b"").decode("latin-1")


def _health(name: str, ready: bool) -> Health:
    if name not in HEALTH_NAMES:
        return Health.SERVICE_UNKNOWN
    return Health.SERVING if ready else Health.NOT_SERVING
