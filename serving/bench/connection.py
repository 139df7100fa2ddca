"""Connection: one socket to the server, and a new one when that ends. What is said on it is a subclass's.

shut → connecting → (TLS handshake) → open → shut
"""

from __future__ import annotations

import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from serving.bench.dial import WAIT, Address, failure
from serving.bench.reactor import READ, WRITE, Reactor
from serving.bench.ticket import Ticket

FAREWELL_NS = 1_000_000_000
_WARNINGS = 3


class Stage(Enum):
    SHUT = "shut"
    CONNECTING = "connecting"
    OPEN = "open"


class Pace(Protocol):
    """Who decides what is sent when. It is told what becomes of the connections."""

    def ready(self, connection: Connection, now: int) -> None:
        """It can take as many requests as it has slots."""

    def free(self, connection: Connection, now: int) -> None:
        """It can take one more request."""

    def unopened(self, connection: Connection, kind: str, text: str, now: int) -> None:
        """It could not be opened, and is shut."""

    def withdraw(self, connection: Connection) -> None:
        """It takes no more requests, and will be gone when those under way are answered."""

    def gone(self, connection: Connection, now: int) -> None:
        """It is shut after it was ready."""


class Connection(ABC):
    """`slots` requests at a time.

    wanted        when this opening was asked for: in a closed loop the first requests on it began then
    received      bytes, over all its sockets
    warnings      what whoever reads the figures ought to know
    """

    # Slots: past 30 attributes CPython 3.11 gives an instance a dictionary of its own, and a request costs a third more here.
    __slots__ = (
        "_address", "_handler", "_tls", "_tls_name", "_unsent", "fd", "free", "opened", "openings", "pace", "reactor", "received", "recv",
        "send", "slots", "sock", "stage", "wanted", "warnings",
    )  # fmt: skip
    protocol = ""

    def __init__(self, reactor: Reactor, address: Address, tls: ssl.SSLContext | None, tls_name: str, pace: Pace, slots: int) -> None:
        self.reactor = reactor
        self.pace = pace
        self.slots = slots
        self.stage = Stage.SHUT
        self.wanted = 0
        self.opened = 0
        self.received = 0
        self.openings = 0
        self.warnings: list[str] = []
        self.free: Callable[[Connection, int], None] = pace.free
        self._address = address
        self._tls = tls
        self._tls_name = tls_name
        self.sock: socket.socket
        self.fd = -1
        self.send: Callable[[bytes | memoryview], int]
        self.recv: Callable[[int], bytes]
        self._unsent: memoryview | None = None
        self._handler: Callable[[int], None]

    @property
    @abstractmethod
    def busy(self) -> int:
        """Requests under way."""

    @abstractmethod
    def begin(self, ticket: Ticket, start: int, now: int) -> None:
        """Send a request on a free slot. Its latency counts from `start`, its timeout from `now`."""

    @abstractmethod
    def readable(self, now: int) -> None:
        """There is something to read, perhaps the end."""

    @abstractmethod
    def started(self, now: int) -> None:
        """The socket is open; tell the pace when requests can be sent."""

    @abstractmethod
    def tickets(self) -> list[Ticket]:
        """Return those of the requests under way, in order."""

    @abstractmethod
    def clear(self) -> None:
        """Forget the requests under way and all that was read of their answers."""

    @abstractmethod
    def expire_requests(self, before: int, now: int) -> None:
        """Fail the requests that were sent before this time."""

    @property
    def opening(self) -> bool:
        """True while it is not yet known whether it will be ready."""
        return self.stage is Stage.CONNECTING

    def warn(self, text: str) -> None:
        if len(self.warnings) < _WARNINGS and text not in self.warnings:
            self.warnings.append(text)

    def rest(self) -> None:  # noqa: B027  # most have nothing to do then
        """A slot stays free: the pace has nothing to send now."""

    def open(self, now: int) -> None:
        self.wanted = self.opened = now
        self.openings += 1
        self.stage = Stage.CONNECTING
        try:
            self.sock = self._address.dial()
        except OSError as error:
            self.stage = Stage.SHUT
            self.pace.unopened(self, *failure(error, "connect"), now)
            return
        self.fd = self.sock.fileno()
        self.reactor.watch(self.fd, self._connected, WRITE)

    def expire(self, before: int, now: int) -> None:
        """End what has taken since `before`: the connecting, or requests."""
        if self.stage is Stage.CONNECTING:
            if self.opened < before:
                self._unopened("connect timeout", "no connection within the timeout", now)
        elif self.stage is Stage.OPEN:
            self.expire_requests(before, now)

    def lose(self, kind: str, text: str, now: int) -> None:
        """Shut the connection with an error, which all its requests get."""
        for ticket in self.tickets():
            ticket.fail(kind, text)
        self.clear()
        self.shut()
        self.pace.gone(self, now)

    def retire(self, now: int) -> None:
        """Shut the connection without an error: the server wants no more requests on it, or is done with it."""
        self.clear()
        Farewell(self.reactor, self.sock, self.fd, now)
        self._unsent = None
        self.stage = Stage.SHUT
        self.pace.gone(self, now)

    def shut(self) -> None:
        """Close the socket, and tell nobody."""
        if self.stage is not Stage.SHUT:
            self.stage = Stage.SHUT
            self._unsent = None
            self.reactor.forget(self.sock)

    def write_rest(self, rest: memoryview) -> None:
        """Send these bytes when the socket can take them."""
        self._unsent = rest
        self.reactor.change(self.fd, self._writable, READ | WRITE)

    @property
    def writing(self) -> bool:
        return self._unsent is not None

    def written(self, now: int) -> None:  # noqa: B027  # most have nothing to do then
        """All that was given to `write_rest` has left."""

    def _connected(self, now: int) -> None:
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._unopened(*failure(OSError(error, os.strerror(error)), "connect"), now)
        elif self._tls is None:
            self._open_with(self.readable, now)
        else:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._tls_name, do_handshake_on_connect=False)
            self.reactor.change(self.fd, self._handshake, WRITE)
            self._handshake(now)

    def _handshake(self, now: int) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.reactor.change(self.fd, self._handshake, READ)
        except ssl.SSLWantWriteError:
            self.reactor.change(self.fd, self._handshake, WRITE)
        except OSError as error:
            self._unopened(*failure(error, "connect"), now)
        else:
            if self.protocol == "h2" and self.sock.selected_alpn_protocol() != "h2":
                self._unopened("tls", "the server does not offer HTTP/2 (ALPN h2)", now)
            else:
                self._open_with(self._readable_tls, now)

    def _open_with(self, handler: Callable[[int], None], now: int) -> None:
        self.send, self.recv = self.sock.send, self.sock.recv
        self._handler = handler
        self.stage = Stage.OPEN
        self.reactor.change(self.fd, handler, READ)
        self.started(now)

    def _unopened(self, kind: str, text: str, now: int) -> None:
        self.clear()
        self.shut()
        self.pace.unopened(self, kind, text, now)

    def _readable_tls(self, now: int) -> None:
        """Read until TLS holds nothing back: epoll knows only of what has not been decrypted."""
        sock = self.sock
        assert isinstance(sock, ssl.SSLSocket)
        self.readable(now)
        while self.stage is Stage.OPEN and self.sock is sock and sock.pending():
            self.readable(now)

    def _writable(self, now: int) -> None:
        rest = self._unsent
        if rest is not None:
            try:
                rest = rest[self.send(rest) :]
            except WAIT:
                pass
            except OSError:
                # An answer may lie ready all the same (413, say); reading finds it, or finds the error.
                rest = rest[:0]
            if rest.nbytes:
                self._unsent = rest
            else:
                self._unsent = None
                self.reactor.change(self.fd, self._handler, READ)
                self.written(now)
        if self.stage is Stage.OPEN:
            self._handler(now)


class Farewell:
    """A socket that is done with. The server closes first if it means to, within a second, so that the port is not blocked here."""

    def __init__(self, reactor: Reactor, sock: socket.socket, fd: int, now: int) -> None:
        self._reactor = reactor
        self._sock = sock
        self._done = False
        reactor.parting.add(sock)
        reactor.change(fd, self._readable, READ)
        reactor.at(now + FAREWELL_NS, self._end)
        self._readable(now)

    def _readable(self, now: int) -> None:
        try:
            while not self._done and self._sock.recv(65536):
                pass
        except WAIT:
            return
        except OSError:
            pass
        self._end(now)

    def _end(self, now: int) -> None:
        if not self._done:
            self._done = True
            self._reactor.parting.discard(self._sock)
            self._reactor.forget(self._sock)
