"""The REST face: which path means what, and the way of one REST prediction. Paths and bodies follow `protocol/`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from serving import VERSION
from serving.errors import Code, NotFound, ServingError, Unavailable, Unsupported, from_code
from serving.gateway.call import Call
from serving.gateway.client_limits import Client
from serving.gateway.desk import DeskClient
from serving.gateway.docs import PAGE
from serving.gateway.door import check_large, check_rest
from serving.gateway.errand import rest_errand
from serving.gateway.extensions import extensions
from serving.gateway.generate import generate, generate_stream
from serving.gateway.head import Action, Head
from serving.gateway.http_exchange import HttpExchange
from serving.gateway.model_config import config_of
from serving.gateway.offload import OFFLOAD_BYTES, offload
from serving.gateway.repository import Repository
from serving.gateway.service import Service
from serving.gateway.special import submit
from serving.gateway.statistics import Statistics
from serving.gateway.turns import Turns
from serving.gateway.wishes import WishDesk, rest_run
from serving.inference import Buffer, InferResponse
from serving.names import version_name
from serving.protocol import metadata, model_config, openapi, statistics
from serving.protocol.compression import MIN_RESPONSE_BYTES, Encoding, compress, decompress_body, response_encoding, supported
from serving.protocol.json_slices import SLICED_BYTES, Outline, read_slices
from serving.protocol.rest import parse_header_length
from serving.protocol.status import describe, error_json

JSON = b"application/json"
DECOUPLED = "HTTP end point doesn't support models with decoupled transaction policy"
MAX_CACHED_ANSWERS = 4096
TEXT_BYTES = 128 * 1024
"""Tensors from this size on are written as text in slices: 32,768 numbers take 1.5 ms."""

Infer = Callable[..., None]
"""infer(connection, head, body): as `Action.run`."""


class RestApi:
    """Finds the action of a request and runs it."""

    def __init__(self, service: Service, desk: DeskClient, counts: Statistics, turns: Turns) -> None:
        self._service = service
        self._counts = counts
        self._wishes = WishDesk(service, desk)
        self._repository = Repository(desk)
        self._turns = turns
        self._answer_heads: dict[tuple[int | None, int, bool], bytes] = {}

    def route(self, head: Head) -> Action:
        """Return the action for the method and path of `head`; unknown ones get an action that says so."""
        parts = head.path.split("/")[1:]
        if parts and parts[-1] == "":
            parts.pop()
        match parts:
            case ["v2"]:
                return _get(head, self._metadata)
            case ["v2", "health", "live"]:
                return _get(head, self._live)
            case ["v2", "health", "ready"]:
                return _get(head, self._ready)
            case ["openapi.json"]:
                return _get(head, lambda connection: connection.respond(200, JSON, openapi.document(self._service.server_name, VERSION)))
            case ["docs"]:
                return _get(head, lambda connection: connection.respond(200, b"text/html; charset=utf-8", PAGE))
            case ["edge", "health"]:
                return _get(head, self._edge_health)
            case ["v2", "models", "stats"]:
                return self._statistics(head, "", "")
            case ["v2", "repository", *rest]:
                action = self._repository.rest(rest)
                return _post(head, action) if action is not None else _NOT_FOUND
            case ["v2", "models", model, *rest] if model and rest[-2:] != ["trace", "setting"]:
                return self._model(head, model, rest)
            case ["v2", *rest] if (found := rest_run(self._wishes, rest)) is not None:
                return rest_errand(found[1]) if head.method in found[0] else _wrong_method(*found[0])
        return _NOT_FOUND

    def _model(self, head: Head, model: str, rest: list[str]) -> Action:
        version = ""
        match rest:
            case ["versions", version, *rest]:
                try:
                    version_name(version)
                except ServingError as error:
                    return _failing(error)
            case _:
                pass
        match rest:
            case []:
                return _get(head, lambda connection: self._model_metadata(connection, model, version))
            case ["ready"]:
                return _get(head, lambda connection: self._model_ready(connection, model, version))
            case ["config"]:
                return _get(head, lambda connection: self._model_config(connection, model, version))
            case ["stats"]:
                return self._statistics(head, model, version)
            case ["generate" | "generate_stream" as verb]:
                return self._generate(head, model, version, generate if verb == "generate" else generate_stream)
            case ["infer"]:
                if head.inference_header_length == -1:
                    try:
                        parse_header_length(head.headers[b"inference-header-content-length"].decode("latin-1"))
                    except ServingError as error:
                        return _failing(error)
                try:
                    supported(head.content_encoding.decode("latin-1"))
                except Unsupported as error:
                    return _post(head, _unsupported_coding(error))
                return _post(head, Action(self._infer_of(head, model, version), self._answer))
        return _NOT_FOUND

    # Predictions ---------------------------------------------------------------------------------------------------

    def _generate(self, head: Head, model: str, version: str, run: Callable[..., None]) -> Action:
        if head.content_encoding not in (b"", b"identity"):
            return _post(head, _unsupported_coding(Unsupported(f"Unsupported compression type: {run.__name__} takes none"), b"identity"))
        return _post(head, Action(lambda connection, head, body: run(self._service, connection, body, model, version)))

    def _infer_of(self, head: Head, model: str, version: str) -> Infer:
        """Return what submits a prediction with such a head."""
        infer = self._inferring(model, version)
        may_be_large = head.content_length < 0 or head.content_length >= SLICED_BYTES or head.content_encoding
        if head.inference_header_length is None and may_be_large:
            infer = self._slicing(model, version, infer)
        return self._decompressing(model, version, infer) if head.content_encoding else infer

    def _slicing(self, model: str, version: str, infer: Infer) -> Infer:
        """Return what has a large JSON body read in slices, between which others are answered; small ones go to `infer`."""
        service, turns = self._service, self._turns

        def sliced(connection: HttpExchange, head: Head, body: Buffer, asked: bool = False, client: Client | None = None) -> None:
            if not SLICED_BYTES <= len(body) <= service.limits.max_json_bytes:
                infer(connection, head, body, asked, client)
                return
            candidates = service.versions.candidates(model, version)
            if all(served.decoupled for served in candidates):
                raise Unsupported(DECOUPLED)
            if service.clients is not None and not asked:
                client = service.ask(candidates[0], connection.client)
            check_large(service, candidates, body)

            if not turns.begin(connection, read_slices(body), lambda outline: infer(connection, head, body, True, client, outline)):
                infer(connection, head, body, True, client)

        return sliced

    def _inferring(self, model: str, version: str) -> Infer:
        """Return what submits a prediction. Made once per head: a call less each time.

        client     counts where it has been `asked` before
        outline    what a large JSON body says, where it has been read
        """
        service = self._service
        resolve = service.versions.resolve

        def infer(
            connection: HttpExchange,
            head: Head,
            body: Buffer,
            asked: bool = False,
            client: Client | None = None,
            outline: Outline | None = None,
        ) -> None:
            served = resolve(model, version, connection, body if outline is None else outline.text)
            if served.decoupled:
                raise Unsupported(DECOUPLED)
            if service.clients is not None and not asked:
                client = service.ask(served, connection.client)
            if outline is None:
                check_rest(service, served, body, head.inference_header_length)
                request, plan = served.rest.decode(body, head.inference_header_length)
            else:
                request, plan = served.rest.decode_outline(outline)
            if head.forwarded:
                service.forwarding.put(request, head.forwarded)
            connection.work = submit(service, served, request, connection, plan, "rest", client)

        return infer

    def _decompressing(self, model: str, version: str, infer: Infer) -> Infer:
        """Return what submits a prediction whose body is compressed."""
        service = self._service

        def decompress(connection: HttpExchange, head: Head, body: Buffer) -> None:
            known = service.versions.resolve(model, version)
            client = service.ask(known, connection.client) if service.clients is not None else None
            work = partial(decompress_body, body, head.content_encoding.decode("latin-1"), service.limits.max_decompressed_bytes)
            if len(body) < OFFLOAD_BYTES:
                infer(connection, head, work(), True, client)
            else:
                offload(connection, work, lambda plain: infer(connection, head, plain, True, client))

        return decompress

    def _answer(self, connection: HttpExchange, call: Call, response: InferResponse) -> None:
        if response.code is not Code.OK:
            connection.fail(from_code(response.code, response.message, response.retry_after_s))
            return
        layout = response.layout
        if layout is not None and layout.payload_bytes >= TEXT_BYTES and call.plan.answer.json:
            work = call.served.rest.encode_slices(call.plan, response)
            if self._turns.begin(connection, work, lambda answer: self._write(connection, *answer)):
                return
        try:
            parts, header_length = call.served.rest.encode(call.plan, response)
        except ServingError as error:
            connection.fail(error)
            return
        self._write(connection, parts, header_length)

    def _write(self, connection: HttpExchange, parts: list[Buffer], header_length: int | None) -> None:
        accept = connection.head.accept_encoding
        total = 0
        for part in parts:
            total += len(part)
        if accept and total >= MIN_RESPONSE_BYTES and (encoding := response_encoding(accept.decode("latin-1"))):
            self._answer_compressed(connection, parts, total, header_length, encoding)
            return
        close = connection.closes()
        key = (header_length, total, close)
        head = self._answer_heads.get(key)
        if head is None:
            head = self._answer_head(key)
        connection.write_answer(head, parts, total, close)

    def _answer_head(self, key: tuple[int | None, int, bool], extra: bytes = b"") -> bytes:
        header_length, total, close = key
        if close:
            extra += b"Connection: close\r\n"
        if header_length is None:
            kind = b"Content-Type: application/json\r\n"
        else:
            kind = b"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n" % header_length
        head = b"HTTP/1.1 200 OK\r\n%s%sContent-Length: %d\r\n\r\n" % (kind, extra, total)
        if b"Encoding" not in extra:
            if len(self._answer_heads) >= MAX_CACHED_ANSWERS:
                self._answer_heads.clear()
            self._answer_heads[key] = head
        return head

    def _answer_compressed(
        self, connection: HttpExchange, parts: list[Buffer], total: int, header_length: int | None, encoding: Encoding
    ) -> None:
        extra = b"Content-Encoding: %s\r\n" % encoding.encode()

        def write(body: bytes) -> None:
            close = connection.closes()
            head = self._answer_head((header_length, len(body), close), extra)
            connection.write_answer(head, [body], len(body), close)

        if total < OFFLOAD_BYTES:
            write(compress(parts, encoding))
            return
        try:
            offload(connection, partial(compress, parts, encoding), write)
        except Unavailable as error:
            connection.fail(error)

    # Health and metadata -------------------------------------------------------------------------------------------

    def _live(self, connection: HttpExchange) -> None:
        connection.respond(200, JSON, metadata.live(True))

    def _ready(self, connection: HttpExchange) -> None:
        ready = self._service.ready
        connection.respond(200 if ready else 503, JSON, metadata.ready(ready))

    def _edge_health(self, connection: HttpExchange) -> None:
        if not connection.trusted:
            connection.respond(404, JSON, error_json(metadata.NOT_FOUND))
            return
        taking = not connection.host.draining
        connection.host.edge_told = not taking
        # `close` also keeps the question out of what a leaving gateway takes for traffic
        connection.respond(200 if taking else 503, JSON, b"{}", close=True)

    def _metadata(self, connection: HttpExchange) -> None:
        connection.respond(200, JSON, metadata.server(self._service.server_name, VERSION, extensions(self._service)))

    def _model_metadata(self, connection: HttpExchange, model: str, version: str) -> None:
        served = self._service.versions.resolve(model, version)
        versions = [version] if version else self._service.versions.ready_of(model)
        connection.respond(200, JSON, metadata.model(model, versions, served.platform, served.signature))

    def _model_config(self, connection: HttpExchange, model: str, version: str) -> None:
        connection.respond(200, JSON, model_config.as_json(config_of(self._service, model, version)))

    def _statistics(self, head: Head, model: str, version: str) -> Action:
        async def run(_: bytes) -> bytes:
            return statistics.to_json(await self._counts.of(model, version))

        return rest_errand(run) if head.method in _READS else _wrong_method(*_READS)

    def _model_ready(self, connection: HttpExchange, model: str, version: str) -> None:
        try:
            ready = self._service.versions.resolve(model, version).ready
        except NotFound:
            raise
        except ServingError:
            ready = False
        if ready:
            connection.respond(200, JSON, metadata.model_ready(model, True))
        else:
            connection.respond(400, JSON, error_json(metadata.MODEL_NOT_READY))


def _get(head: Head, run: Any) -> Action:
    if head.method not in _READS:
        return _wrong_method(*_READS)
    return Action(lambda connection, head, body: run(connection))


def _post(head: Head, action: Action) -> Action:
    return action if head.method == b"POST" else _wrong_method(b"POST")


def _wrong_method(*allowed: bytes) -> Action:
    allow = b"Allow: %s\r\n" % b", ".join(allowed)
    return Action(lambda connection, head, body: connection.respond(405, JSON, error_json(metadata.METHOD_NOT_ALLOWED), allow))


def _failing(error: ServingError) -> Action:
    return Action(lambda connection, head, body: connection.fail(error))


def _unsupported_coding(error: Unsupported, accepted: bytes = b"gzip, deflate") -> Action:
    status, _, body = describe(error, "content_encoding")
    return Action(lambda connection, head, _: connection.respond(status, JSON, body, b"Accept-Encoding: %s\r\n" % accepted))


_READS = (b"GET", b"HEAD")
_NOT_FOUND = Action(lambda connection, head, body: connection.respond(404, JSON, error_json(metadata.NOT_FOUND)))
