"""HTTP/1.1: one request at a time on a connection. The common answer, equal to the one before, is recognised by one comparison."""

from __future__ import annotations

import ssl
from time import monotonic_ns

from serving.bench.connection import Connection, Pace
from serving.bench.dial import WAIT, Address, Tls, failure
from serving.bench.http1_answer import CHUNKED, UNTIL_CLOSE, Chunks, Head, Heads, check_beginning
from serving.bench.reactor import Reactor
from serving.bench.request import BadAnswer, Request
from serving.bench.tape import TEXT_CHARS
from serving.bench.ticket import Ticket

_READ = 65536
_READ_LARGE = 1 << 20


def encode(request: Request, host: str, new_connection: bool) -> bytes:
    """Return the bytes of a request, head and body."""
    names = {name.lower() for name, _ in request.headers}
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in request.headers if name.lower() != "content-length"]
    if request.body or request.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(request.body)}")
    if new_connection:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


class Http1Driver:
    """What the connections of a process share."""

    streams = 1
    """Requests at a time on one connection, at most."""

    def __init__(self, address: Address, tls: Tls | None, new_connection: bool) -> None:
        self._address = address
        self._tls = tls.context(Http1Connection.protocol) if tls else None
        self._tls_name = tls.name if tls and tls.name else address.name
        self._new_connection = new_connection
        self._heads = Heads()
        self._wires: dict[int, bytes] = {}

    def prepare(self, ticket: Ticket) -> None:
        """Give the ticket its bytes; those of one request are kept once."""
        wire = self._wires.get(ticket.number)
        if wire is None:
            wire = self._wires[ticket.number] = encode(ticket.request, self._address.host, self._new_connection)
        ticket.wire = wire

    def connection(self, reactor: Reactor, pace: Pace, slots: int) -> Http1Connection:
        return Http1Connection(reactor, self._address, self._tls, self._tls_name, pace, self._new_connection, self._heads)


class Http1Connection(Connection):
    """Between answers `_ticket` is the request under way or None, `_good` the whole answer that needs no reading."""

    __slots__ = (
        "_begun", "_body", "_checked", "_chunks", "_good", "_head", "_heads", "_keep", "_left", "_new_connection", "_reading", "_since",
        "_start", "_ticket",
    )  # fmt: skip
    protocol = "http/1.1"

    def __init__(
        self, reactor: Reactor, address: Address, tls: ssl.SSLContext | None, tls_name: str, pace: Pace, new_connection: bool, heads: Heads
    ) -> None:
        super().__init__(reactor, address, tls, tls_name, pace, slots=1)
        self._new_connection = new_connection
        self._heads = heads
        self._ticket: Ticket | None = None
        self._good: bytes | None = None
        self._start = 0
        self._since = 0
        self._reading = False
        self._begun = b""
        self._head: Head | None = None
        self._left = 0
        self._keep = False
        self._checked = False
        self._body = bytearray()
        self._chunks: Chunks | None = None

    @property
    def busy(self) -> int:
        return self._ticket is not None

    def tickets(self) -> list[Ticket]:
        return [] if self._ticket is None else [self._ticket]

    def clear(self) -> None:
        self._ticket = self._good = None
        self._forget_answer()

    def started(self, now: int) -> None:
        self.pace.ready(self, now)

    def expire_requests(self, before: int, now: int) -> None:
        if self._ticket is not None and self._since < before:
            self.lose("timeout", "no answer within the timeout", now)

    def rest(self) -> None:
        self._ticket = self._good = None

    def begin(self, ticket: Ticket, start: int, now: int) -> None:
        self._ticket = ticket
        self._good = ticket.good
        self._start = start
        self._since = now
        wire = ticket.wire
        send = self.send
        try:
            sent = send(wire)
        except WAIT:
            sent = 0
        except OSError:
            return  # an answer may lie ready all the same; reading finds it, or finds the error
        if sent != len(wire):
            self.write_rest(memoryview(wire)[sent:])

    def readable(self, now: int) -> None:
        recv = self.recv  # into a local first: CPython 3.11 calls what an instance holds faster so
        try:
            data = recv(_READ)
        except WAIT:
            return
        except OSError as error:
            self._broken(error, now)
            return
        self.received += len(data)
        if data == self._good:
            answered = self._ticket.answered  # type: ignore[union-attr]  # where there is no ticket, _good is None
            answered(now - self._start)
            free = self.free
            free(self, now)
        else:
            self._read(data, now)

    def _read(self, data: bytes, now: int) -> None:
        ticket = self._ticket
        if ticket is None:
            self.retire(now)  # closed by the server while nothing was under way, or it said something unasked (408, say)
            return
        whole = data if not self._reading else None
        try:
            rest = self._feed(ticket, data)
        except BadAnswer as error:
            self.lose("bad answer", str(error), now)
            return
        if rest is None:
            if not data:
                self.lose(
                    "closed", "the server closed the connection " + ("within an answer" if self._reading else "before an answer"), now
                )
                return
            # From here on nothing may be taken for a whole answer.
            self._reading = True
            self._good = None
            self._more(ticket, now)
            return
        self._finish(ticket, whole, rest, now)

    def _more(self, ticket: Ticket, now: int) -> None:
        """Read what lies ready of a large body, in large pieces, while it is certain that it is one."""
        while self._left > _READ:
            try:
                data = self.recv(min(self._left, _READ_LARGE))
            except WAIT:
                return
            except OSError as error:
                self._broken(error, now)
                return
            self.received += len(data)
            if not data:
                self.lose("closed", "the server closed the connection within an answer", now)
                return
            self._left -= len(data)
            if self._keep:
                self._body += data
            if not self._left:
                self._finish(ticket, None, b"", monotonic_ns())
                return

    def _feed(self, ticket: Ticket, data: bytes) -> bytes | None:
        """Take the next bytes of an answer; return what lies behind its end, None where it has not ended."""
        if self._head is None:
            begun = self._begun + data
            while True:
                end = begun.find(b"\r\n\r\n") + 4
                if end == 3:
                    check_beginning(begun)
                    self._begun = begun
                    return None
                head = self._heads.read(begun[:end])
                if head.status >= 200:
                    break
                if head.status == 101:
                    raise BadAnswer("101 Switching Protocols, not asked for")
                begun = begun[end:]
            self._begun = b""
            self._head = head
            self._checked = ticket.wants_body()
            self._keep = self._checked or not 200 <= head.status < 300
            self._left = head.length if ticket.request.method != "HEAD" else 0
            if self._left == CHUNKED:
                self._chunks = Chunks(self._keep)
            data = begun[end:]
        if self._chunks is not None:
            self._chunks.feed(data)
            return self._chunks.rest if self._chunks.done else None
        if self._left == UNTIL_CLOSE:
            if self._keep:
                self._body += data
            return b"" if not data and self._reading else None
        taken = data[: self._left]
        self._left -= len(taken)
        if self._keep:
            self._body += taken
        return None if self._left else data[len(taken) :]

    def _finish(self, ticket: Ticket, whole: bytes | None, rest: bytes, now: int) -> None:
        """The answer is complete. `whole` is all of it where it came in one piece."""
        head = self._head
        assert head is not None
        if self._keep:
            body = bytes(self._body if self._chunks is None else self._chunks.body)
        if rest:
            ticket.fail("bad answer", f"{rest[:60]!r} behind an answer")
        elif not 200 <= head.status < 300:
            ticket.fail(f"http {head.status // 100}xx", f"{head.status} {head.reason}: {body[:TEXT_CHARS].decode(errors='replace')}")
        elif self._checked and (wrong := ticket.judge(body)) is not None:
            ticket.fail("wrong body", wrong)
        else:
            ticket.answered(now - self._start)
            if whole and not head.last and not self._new_connection and ticket.trusts(self._checked):
                ticket.good = whole
        self.rest()
        over = bool(rest) or head.last or self._new_connection or self.writing
        self._forget_answer()
        if over:
            self.retire(now)
        else:
            self.free(self, now)

    def _forget_answer(self) -> None:
        self._reading = self._keep = self._checked = False
        self._begun = b""
        self._head = self._chunks = None
        self._left = 0
        if self._body:
            self._body = bytearray()

    def _broken(self, error: OSError, now: int) -> None:
        if self._ticket is None:
            self.retire(now)
        else:
            kind, text = failure(error, "receive")
            self.lose(kind, text, now)
