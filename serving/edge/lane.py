"""Lane: JSON lines with file descriptors over a Unix stream socket, for both ends of `edge.sock`.

A message that carries descriptors says how many in its own key "fds": the kernel may hand over the bytes of two messages in one
read, so the descriptors are queued in order of arrival and each message takes its own from the queue.
Belongs to the thread of its loop; works on asyncio and uvloop (add_reader is all it asks of them).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct
from typing import Any

Message = dict[str, Any]
OnMessage = Callable[[Message, list[socket.socket]], None]

MAX_LINE_BYTES = 16 << 20
MAX_FDS = 128
_READ_BYTES = 256 * 1024
_FD = Struct("i")


class Lane:
    """One connection. `on_message(message, sockets)` owns the sockets; `on_close()` is called once, however it ends."""

    def __init__(self, sock: socket.socket, on_message: OnMessage, on_close: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_close = on_close
        self._line = bytearray()
        self._fds: deque[int] = deque()
        self._out: deque[tuple[memoryview, list[int]]] = deque()
        self._flushed = asyncio.Event()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def idle(self) -> bool:
        """True when all that was sent has left; a sender of cumulative reports skips one while this is False."""
        return not self._out

    async def flushed(self, within_s: float = 1.0) -> None:
        """Return when all that was sent has left, the lane is closed, or the time is over."""
        if self._out and not self.closed:
            self._flushed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._flushed.wait(), within_s)

    def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Queue one message. The sockets are duplicated on the way; the caller keeps its own. Nothing happens on a closed lane."""
        if self.closed:
            return
        if sockets:
            message = {**message, "fds": len(sockets)}
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        # duplicates, so that the caller may close its own before the bytes have left
        self._out.append((data, [os.dup(s.fileno()) for s in sockets]))
        if len(self._out) == 1:
            self._writable()

    def close(self) -> None:
        """Close now; `on_close` is called unless it was before."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._out:
            _close_all(fds)
        self._out.clear()
        self._flushed.set()
        while self._fds:
            os.close(self._fds.popleft())
        self._on_close()

    def _writable(self) -> None:
        while self._out:
            data, fds = self._out[0]
            try:
                # descriptors ride on the first byte; what is left of the message goes without them
                sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                # not now: whoever sends may be in the middle of a change that on_close would make again
                self._loop.call_soon(self.close)
                return
            _close_all(fds)
            if sent < len(data):
                self._out[0] = (data[sent:], [])
            else:
                self._out.popleft()
        self._loop.remove_writer(self._sock.fileno())
        self._flushed.set()

    def _readable(self) -> None:
        try:
            # not socket.recv_fds: it drops the flags, and a program that somebody starts would inherit the listeners
            data, ancillary, flags, _ = self._sock.recvmsg(_READ_BYTES, socket.CMSG_LEN(MAX_FDS * _FD.size), socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        for level, kind, packed in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(fd for (fd,) in _FD.iter_unpack(packed[: len(packed) - len(packed) % _FD.size]))
        self._line += data
        if not data or flags & socket.MSG_CTRUNC or len(self._line) > MAX_LINE_BYTES:
            self.close()
            return
        while not self.closed and (end := self._line.find(b"\n")) >= 0:
            line = bytes(self._line[:end])
            del self._line[: end + 1]
            try:
                message = json.loads(line)
                sockets = self._take(int(message.pop("fds", 0)))
            except (ValueError, AttributeError, TypeError, IndexError):
                self.close()
                return
            self._on_message(message, sockets)

    def _take(self, count: int) -> list[socket.socket]:
        if not 0 <= count <= len(self._fds):
            raise IndexError(count)
        return [_non_blocking(self._fds.popleft()) for _ in range(count)]


def _non_blocking(fd: int) -> socket.socket:
    """Return the socket of a received descriptor.

    Blocking or not is a property of the socket, shared by all processes that hold it; Python takes a new object for a blocking one
    and its dup() would make it so for everybody, and then a gateway that is late for a connection hangs in accept.
    """
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
