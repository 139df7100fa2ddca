"""The gRPC face, as the edge hands it on: HTTP/1.1 POSTs with length-prefixed messages in, chunked bodies with trailers out.

Unary calls take the same way as REST. Streams are in `stream.py`. No grpc import: frames and messages come from `protocol/`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import cast

from serving import VERSION
from serving.errors import Code, DecodeError, NotFound, ServingError, Unsupported, from_code
from serving.gateway.call import Call
from serving.gateway.head import Action, Head
from serving.gateway.http import HttpConnection
from serving.gateway.offload import OFFLOAD_BYTES, offload
from serving.gateway.service import Service
from serving.gateway.stream import START, InferStream, WatchStream, check_version
from serving.inference import Buffer, InferResponse
from serving.protocol import messages, metadata
from serving.protocol.grpc import GrpcPlan
from serving.protocol.grpc_frame import MessageReader, decompress, encode_status_message, parse_timeout, whole_message
from serving.protocol.grpc_head import Splitter
from serving.protocol.messages import Health
from serving.protocol.status import grpc_status

INFERENCE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
HEALTH_NAMES = ("", "inference.GRPCInferenceService")

_END_OK = b"\r\n0\r\ngrpc-status: 0\r\n\r\n"
MAX_CACHED_HEADS = 4096


class GrpcApi:
    """Finds the method of a call and runs it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._split = Splitter().split
        self._heads: dict[tuple[int, bool], bytes] = {}
        self._streams: set[InferStream | WatchStream] = set()
        self._unary: dict[str, Callable[[Buffer], bytes]] = {
            INFERENCE + "ServerLive": lambda message: messages.server_live(True),
            INFERENCE + "ServerReady": lambda message: messages.server_ready(self._service.ready),
            INFERENCE + "ServerMetadata": lambda message: self._server_metadata(),
            INFERENCE + "ModelReady": self._model_ready,
            INFERENCE + "ModelMetadata": self._model_metadata,
            HEALTH + "Check": self._health_check,
        }

    def route(self, head: Head) -> Action:
        """Return the action of a method's path; unknown ones answer UNIMPLEMENTED."""
        path = head.path
        if path == INFERENCE + "ModelInfer":
            return Action(self._infer, self._answer, fail)
        if path == INFERENCE + "ModelStreamInfer":
            return Action(self._open_infer_stream, None, fail, streams=True)
        if path == HEALTH + "Watch":
            return Action(self._open_watch, None, fail)
        run = self._unary.get(path)
        if run is None:
            return Action(lambda connection, head, body: fail(connection, Unsupported(f"method {path} is not there")), None, fail)
        return Action(lambda connection, head, body: self._reply(connection, run(self._message(head, body))), None, fail)

    # Predictions ---------------------------------------------------------------------------------------------------

    def _infer(self, connection: HttpConnection, head: Head, body: Buffer) -> None:
        timeout = connection.grpc_timeout
        deadline = monotonic() + parse_timeout(timeout.decode("latin-1")) if timeout else 0.0
        whole = whole_message(body)
        if whole is not None:
            self._submit(connection, deadline, whole.data)
        elif len(body) < OFFLOAD_BYTES:
            self._submit(connection, deadline, self._message(head, body))
        else:
            offload(connection, partial(self._message, head, body), partial(self._submit, connection, deadline))

    def _submit(self, connection: HttpConnection, deadline: float, message: Buffer) -> None:
        service = self._service
        asked = self._split(message)
        try:
            served = service.resolve(asked.model, asked.version)
        except NotFound:
            check_version(asked.version)
            raise
        request, plan = served.grpc.decode(asked)
        request.deadline = deadline
        connection.work = service.submit(served, request, connection, plan, "grpc")

    def _answer(self, connection: HttpConnection, call: Call, response: InferResponse) -> None:
        if response.code is not Code.OK:
            fail(connection, from_code(response.code, response.message, response.retry_after_s))
            return
        try:
            parts = call.served.grpc.encode(cast(GrpcPlan, call.plan), response)
        except ServingError as error:
            fail(connection, error)
            return
        total = 0
        for part in parts:
            total += len(part)
        close = connection.closes()
        head = self._heads.get((total, close))
        if head is None:
            head = self._unary_head(total, close)
        parts.append(_END_OK)
        connection.write_answer(head, parts, total, close)

    def _unary_head(self, total: int, close: bool) -> bytes:
        """Return all bytes before a message of `total` bytes: HTTP head, chunk size, gRPC prefix."""
        start = START + b"connection: close\r\n" if close else START
        head = start + b"\r\n%x\r\n\0" % (total + 5) + total.to_bytes(4, "big")
        if len(self._heads) >= MAX_CACHED_HEADS:
            self._heads.clear()
        self._heads[total, close] = head
        return head

    def _reply(self, connection: HttpConnection, message: bytes) -> None:
        close = connection.closes()
        connection.write_answer(self._unary_head(len(message), close), [message, _END_OK], len(message), close)

    def _message(self, head: Head, body: Buffer) -> Buffer:
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
        return decompress(found[0], head.headers.get(b"grpc-encoding", b"").decode("latin-1"), limit)

    # Streams -------------------------------------------------------------------------------------------------------

    def _open_infer_stream(self, connection: HttpConnection, head: Head, body: Buffer) -> None:
        _behind_the_edge(connection)
        stream = InferStream(self._service, self._split, connection, head, self._streams)
        if connection.host.draining:
            stream.drain()

    def _open_watch(self, connection: HttpConnection, head: Head, body: Buffer) -> None:
        _behind_the_edge(connection)
        name = messages.decode_health(self._message(head, body))
        stream = WatchStream(connection, self._streams, name, _health(name, self._service.ready))
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
        return messages.server_metadata(self._service.server_name, VERSION, metadata.EXTENSIONS)

    def _model_ready(self, message: Buffer) -> bytes:
        model, version = messages.decode_model(message)
        try:
            ready = self._service.resolve(model, version).ready
        except ServingError:
            ready = False
        return messages.model_ready(ready)

    def _model_metadata(self, message: Buffer) -> bytes:
        model, version = messages.decode_model(message)
        try:
            served = self._service.resolve(model, version)
        except NotFound:
            check_version(version)
            raise
        versions = [version] if version else self._service.ready_versions(model)
        return messages.model_metadata(model, versions, served.platform, served.signature)


def _health(name: str, ready: bool) -> Health:
    if name not in HEALTH_NAMES:
        return Health.SERVICE_UNKNOWN
    return Health.SERVING if ready else Health.NOT_SERVING


def _behind_the_edge(connection: HttpConnection) -> None:
    """Raise Unsupported on TCP: there a client that has gone cannot be told from one that only has no more to send."""
    if not connection.trusted:
        raise Unsupported("streams are served on the gRPC port")


def fail(connection: HttpConnection, error: ServingError) -> None:
    """Answer with a status and no message (trailers only)."""
    close = connection.closes()
    lines = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n",
        b"grpc-status: %d\r\ngrpc-message: %s\r\n" % (grpc_status(error.code), encode_status_message(error.message)),
        b"grpc-retry-pushback-ms: %d\r\n" % (error.retry_after_s * 1000) if error.retry_after_s else b"",
        b"connection: close\r\n\r\n" if close else b"\r\n",
    ]
    connection.write_answer(b"".join(lines), [], 0, close)
