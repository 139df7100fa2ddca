"""Head: the request line and headers of one HTTP/1.1 request, read once and shared by all requests with the same bytes.

A client on a keep-alive connection sends the same head again and again. `HeadCache` maps the bytes of a head to what they
mean; a hit costs a dict look-up (0.1 µs for 200 bytes) where httptools and its callbacks cost 3 µs. The meaning is a pure
function of the bytes, so sharing is safe; big or one-off heads are not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools

from serving.errors import DecodeError, ServingError

MAX_CACHED_HEAD_BYTES = 2048
MAX_CACHED_HEADS = 2048


@dataclass(frozen=True, slots=True)
class Action:
    """What to do with a request, chosen once per head.

    run(connection, head, body)         starts it; with `streams` at the end of the head, the body goes to `connection.reader`
    answer(connection, call, response)  writes the answer of a call that `run` submitted
    fail(connection, error)             writes an error in the words of the protocol; None = as JSON
    refuses                             runs without its body, and its head is not kept
    """

    run: Callable[[Any, Head, Any], None]
    answer: Callable[[Any, Any, Any], None] | None = None
    fail: Callable[[Any, ServingError], None] | None = None
    streams: bool = False
    refuses: bool = False


def _nothing(connection: object, head: Head, body: object) -> None:
    raise AssertionError("a head without an action")


NO_ACTION = Action(_nothing)


class Head:
    """What a request says before its body.

    path            percent-decoded, without the query string
    content_length  body bytes; -1 = chunked
    headers         names in lower case; the first of each name, where a second one changes nothing
    inference_header_length  None without that header; -1 where it is not a number
    chunks          the client takes answers in chunks (HTTP/1.1)
    action          what `route` found for (method, path)
    forwarded       headers that become parameters of the request (`forwarding.py`; `server.py` sets it)
    visitor         who has sent it, where access is on and the model is in the body (`gate.py`)
    choice          what a route that shares its requests out made of this head: a token of that `Chooser`, and a number of its own
    client          what the header that tells clients apart says; b"" without it (`server.py` sets it)
    """

    __slots__ = (
        "accept_encoding",
        "action",
        "choice",
        "chunks",
        "client",
        "content_encoding",
        "content_length",
        "expect_continue",
        "forwarded",
        "headers",
        "inference_header_length",
        "keep_alive",
        "method",
        "path",
        "visitor",
    )

    method: bytes
    path: str
    headers: dict[bytes, bytes]
    content_length: int
    chunks: bool
    keep_alive: bool
    expect_continue: bool
    inference_header_length: int | None
    content_encoding: bytes
    accept_encoding: bytes
    action: Action
    choice: tuple[object, int] | None
    client: bytes
    forwarded: tuple[tuple[str, str], ...]
    visitor: Any

    def __repr__(self) -> str:
        return f"Head({self.method.decode()} {self.path}, body {self.content_length})"


class _Collector:
    """Receives httptools' callbacks."""

    __slots__ = ("complete", "headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))  # httptools leaves what stands behind a value

    def on_headers_complete(self) -> None:
        self.complete = True


def new_head() -> Head:
    """Return a head that says nothing yet."""
    head = Head()
    head.method = b""
    head.path = ""
    head.headers = {}
    head.content_length = 0
    head.keep_alive = head.expect_continue = head.chunks = False
    head.inference_header_length = None
    head.content_encoding = head.accept_encoding = head.client = b""
    head.action = NO_ACTION
    head.visitor = None
    head.forwarded = ()
    head.choice = None
    return head


NO_HEAD = new_head()
"""Of a connection that has not sent one, or not one that can be read: errors are JSON, and the connection ends."""


def parse_head(block: bytes) -> Head:
    """Return the Head of `block`, which ends with an empty line. Raises DecodeError for anything ambiguous or malformed."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # an offer to upgrade may be ignored (RFC 9110 7.8)
    except httptools.HttpParserError as error:
        raise DecodeError(f"malformed HTTP request: {error}") from None
    if not collector.complete:
        raise DecodeError("malformed HTTP request: the head has no end")
    head = Head()
    head.method = parser.get_method()
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise DecodeError(f"malformed HTTP request: version {version}, expected HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    head.headers = headers
    lengths: set[bytes] = set()
    hosts = 0
    options: set[bytes] = set()
    for name, value in collector.headers:
        if name == b"content-length":
            lengths.add(value)
        elif name == b"host":
            hosts += 1
        elif name == b"connection":
            options.update(token.strip() for token in value.lower().split(b","))
        headers.setdefault(name, value)
    if hosts > 1:
        raise DecodeError("malformed HTTP request: more than one Host")
    head.keep_alive = b"close" not in options and (version == "1.1" or b"keep-alive" in options)
    head.chunks = version == "1.1"
    head.path = _path(collector.url)
    head.content_length = _content_length(headers, lengths)
    head.expect_continue = head.chunks and headers.get(b"expect", b"").lower() == b"100-continue"
    head.content_encoding = headers.get(b"content-encoding", b"").lower()
    head.accept_encoding = headers.get(b"accept-encoding", b"")
    length = headers.get(b"inference-header-content-length")
    head.inference_header_length = None if length is None else int(length) if length.isdigit() and len(length) < 12 else -1
    head.action = NO_ACTION
    head.choice = None
    head.client = b""
    head.visitor = None
    head.forwarded = ()
    return head


def _path(url: bytes) -> str:
    if url.startswith((b"http://", b"https://")):
        cut = url.find(b"/", 8)
        url = url[cut:] if cut >= 0 else b"/"
    raw = url.partition(b"?")[0]
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise DecodeError("malformed HTTP request: the path is not UTF-8") from None


def _content_length(headers: dict[bytes, bytes], lengths: set[bytes]) -> int:
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if lengths:
            raise DecodeError("malformed HTTP request: both Content-Length and Transfer-Encoding")
        if coding.strip().lower() != b"chunked":
            raise DecodeError("malformed HTTP request: Transfer-Encoding must be chunked")
        return -1
    if not lengths:
        return 0
    (value, *others) = lengths
    if others or not value.isdigit() or len(value) > 15:
        raise DecodeError("malformed HTTP request: Content-Length is not one whole number")
    return int(value)


class HeadCache:
    """Heads by their bytes. Bounded: cleared when full, which costs a busy gateway some 10 ms of parsing and no memory."""

    __slots__ = ("_heads", "_route", "find")

    def __init__(self, route: Callable[[Head], Action]) -> None:
        self._heads: dict[bytes, Head] = {}
        self._route = route
        self.find: Callable[[bytes], Head | None] = self._heads.get
        """Return the head if it is known."""

    def read(self, block: bytes) -> Head:
        """Return the head with its action, and know it from now on. Raises DecodeError."""
        head = parse_head(block)
        head.action = self._route(head)
        if len(block) <= MAX_CACHED_HEAD_BYTES and not head.action.refuses:
            if len(self._heads) >= MAX_CACHED_HEADS:
                self._heads.clear()
            self._heads[block] = head
        return head

    def get(self, block: bytes) -> Head:
        """Return the head with its action. Raises DecodeError."""
        return self.find(block) or self.read(block)

    def clear(self) -> None:
        """Forget all heads (routes changed)."""
        self._heads.clear()

    def __len__(self) -> int:
        return len(self._heads)
