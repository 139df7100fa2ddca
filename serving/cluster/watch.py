"""Watch: kills processes of this node that live and do not answer, so that Ray Serve replaces them. One per node, beside the edge's keeper.

Serve itself asks each process how it is, and takes 15 s to give one up that was stopped or whose loop hangs. This asks them over the
sockets in the run directory, as their clients do: a replica PING, a gateway GET /v2/health/live, once a second. One that has not said
a byte for PATIENCE of these is of no use to anybody: gateways have given a replica up by the same rule (`gateway/channel.py`).
A turn of our own that comes late is not counted: then the whole machine stood still.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from serving.errors import DecodeError
from serving.wire import frame as wire
from serving.wire.frame import FrameReader

log = logging.getLogger(__name__)

TICK_S = 1.0
PATIENCE = 4
LATE = 0.5
"""Part of a tick by which a turn may be late and still count."""
_LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: watch\r\n\r\n"
_HELLO = wire.encode_json(wire.HELLO, json.dumps({"protocol": wire.PROTOCOL, "gateway": "watch"}).encode())
_PING = wire.encode_json(wire.PING)
_CREDENTIALS = struct.Struct("3i")

Kill = Callable[[int], None]


class Watch:
    """Runs in a thread of its own. kill(pid): ends a process for good."""

    def __init__(self, run_dir: Path, kill: Kill | None = None, tick_s: float = TICK_S) -> None:
        self._run_dir = run_dir
        self._kill = kill or _kill
        self._tick_s = tick_s
        self._watched: dict[Path, Watched] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._turn, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._tick, self._loop.time())
        self._loop.run_forever()
        for watched in self._watched.values():
            watched.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        counts = now - due < LATE * self._tick_s
        next_due = max(due + self._tick_s, now + self._tick_s / 2)
        self._loop.call_at(next_due, self._tick, next_due)
        for path, watched in list(self._watched.items()):
            if watched.gone:
                del self._watched[path]
            elif watched.silent < PATIENCE:
                watched.ask(counts)
            else:
                self._end(path, watched)
        for path in self._run_dir.glob("*.sock"):
            if path not in self._watched and (make := _kind(path)) is not None:
                watched = make()
                if watched.connect(self._loop, path):
                    self._watched[path] = watched

    def _end(self, path: Path, watched: Watched) -> None:
        del self._watched[path]
        watched.close()
        log.warning("%s (pid %d) has not answered for %g s: it is killed", path.stem, watched.pid, PATIENCE * self._tick_s)
        self._kill(watched.pid)


class Watched(asyncio.Protocol):
    """One process that listens. silent: times it was asked since its last byte."""

    def __init__(self) -> None:
        self.pid = 0
        self.silent = 0
        self.gone = False
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[object] | None = None

    def connect(self, loop: asyncio.AbstractEventLoop, path: Path) -> bool:
        """Return whether somebody listens there. One that is stopped still does."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            return False
        self.pid, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        self._task = loop.create_task(loop.create_unix_connection(lambda: self, sock=sock))
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True

    def data_received(self, data: bytes) -> None:
        self.silent = 0

    def ask(self, counts: bool) -> None:
        """Ask for a sign of life; `counts`: silence until the next time counts."""
        self.silent += counts
        if self._transport is not None:
            self._transport.write(self._question())

    def close(self) -> None:
        self.gone = True
        if self._transport is not None:
            self._transport.abort()

    def _question(self) -> bytes:
        return _LIVE


class WatchedReplica(Watched):
    """Says HELLO when the replica has; leaves when it drains, for a replica waits for its gateways to go."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = FrameReader()
        self._greeted = False

    def data_received(self, data: bytes) -> None:
        self.silent = 0
        try:
            kinds = [frame.kind for frame in self._reader.feed(data)]
        except DecodeError as error:
            log.warning("pid %d: %s", self.pid, error.message)
            self.close()
            return
        if wire.HELLO in kinds and not self._greeted and self._transport is not None:
            self._greeted = True
            self._transport.write(_HELLO)
        if wire.DRAIN in kinds:
            self.close()

    def _question(self) -> bytes:
        return _PING if self._greeted else b""


def _kind(path: Path) -> type[Watched] | None:
    if path.name.startswith("replica-"):
        return WatchedReplica
    return Watched if path.name.startswith("gateway-") else None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        log.warning("pid %d cannot be killed: %s", pid, error.strerror)
