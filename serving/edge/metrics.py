"""The server of the page that Prometheus reads: GET /metrics on the metrics port.

A few calls a minute, so it is one small reader of HTTP/1 on asyncio streams: head and time bounded, the connection closed after each
answer. Prometheus and browsers are content with that, and a server library would bring more code into the keeper than it saves.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from serving.edge.listeners import open_tcp
from serving.edge.page import Page

_log = logging.getLogger(__name__)
METRICS_FLAG = "--metrics-port"
_MAX_HEAD_BYTES = 16 * 1024
_TIMEOUT_S = 10.0
_MAX_CONNECTIONS = 64
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class MetricsPage:
    """Serves what `page` makes. `status` is what GET /status shows, as JSON."""

    def __init__(self, page: Page, status: Callable[[], dict[str, Any]]) -> None:
        self._page = page
        self._status = status
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen; raises Unavailable when the port is taken."""
        sock = open_tcp(host, port, METRICS_FLAG, shared=False)
        self._server = await asyncio.start_server(self._serve, sock=sock, limit=_MAX_HEAD_BYTES, ssl=tls)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._open > _MAX_CONNECTIONS:
                    answer = _answer(503, "text/plain", b"too many connections\n")
                else:
                    answer = await self._respond(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
                # without this half-close and read a client that still sends could see a reset in place of the answer
                if writer.can_write_eof():
                    writer.write_eof()
                await reader.read(_MAX_HEAD_BYTES)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has gone, is too slow or sends no HTTP: nothing is owed to it
        finally:
            self._open -= 1
            writer.close()

    async def _respond(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _answer(400, "text/plain", b"this is not an HTTP/1 request\n")
        method = words[0]
        path, _, query = words[1].partition(b"?")
        if method not in (b"GET", b"HEAD"):
            return _answer(405, "text/plain", b"only GET and HEAD are served\n")
        if path == b"/metrics":
            names = parse_qs(query.decode("latin-1")).get("names", ["all"])[-1]
            answer = _answer(200, CONTENT_TYPE_PLAIN_0_0_4, await self._page.text(triton=names != "serving"))
        elif path == b"/status":
            answer = _answer(200, "application/json", json.dumps(self._status()).encode() + b"\n")
        else:
            answer = _answer(404, "text/plain", b"here are /metrics, /metrics?names=serving and /status\n")
        return answer if method == b"GET" else answer[: answer.index(b"\r\n\r\n") + 4]


def _answer(status: int, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
