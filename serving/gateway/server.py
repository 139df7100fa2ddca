"""GatewayServer: a gateway in a thread of its own: listeners, connections, time-outs, draining. Knows no Ray and no keeper."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import threading
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from serving import telemetry
from serving.errors import Unavailable
from serving.gateway.body import too_large
from serving.gateway.desk import DeskClient
from serving.gateway.gate import Gate
from serving.gateway.grpc import SERVICES, GrpcApi
from serving.gateway.grpc_out import OverHttp1, OverHttp2
from serving.gateway.head import Action, Head, HeadCache
from serving.gateway.http import HttpConnection
from serving.gateway.http2 import Http2Connection
from serving.gateway.http2_head import Http2Heads
from serving.gateway.http2_stream import Http2Stream
from serving.gateway.peers import PeerAddress
from serving.gateway.rest import RestApi
from serving.gateway.service import Service
from serving.gateway.statistics import Source, Statistics
from serving.gateway.tally import Tally
from serving.gateway.turns import Turns
from serving.protocol.settings import log_of
from serving.protocol.status import error_json
from serving.state import DESK_SOCKET, GatewayLimits, GatewayState, quota_file

logger = logging.getLogger(__name__)

TICK_S = 0.5
BACKLOG = 4096
"""uvloop calls listen(2) again, with 100 if it is not told otherwise: a Unix socket refuses what does not fit."""
LINGER_S = 5.0
"""How long a draining gateway leaves idle connections open, so that their next request still gets its answer."""
QUIET_S = 0.4
"""A draining gateway leaves when no request has come for this long."""
CLOSE_S = 1.0
EDGE_ASKS_S = 2.0
"""A gateway behind an edge leaves after the edge has heard so; for an edge that does not ask it waits this long."""


class GatewayServer:
    """One gateway. All public methods may be called from any thread."""

    def __init__(self, name: str, run_dir: str) -> None:
        self.name = name
        self.run_dir = run_dir
        self._loop = uvloop.new_event_loop()
        self._servers: dict[int, tuple[asyncio.AbstractServer, bool]] = {}
        self._last_listener = 0
        self._closed = False
        """Accepts nothing any more."""
        self._stopped = False
        self._host: _Host | None = None
        self._thread = threading.Thread(target=self._run, name=f"gateway-{name}", daemon=True)

    def start(self, listeners: list[socket.socket]) -> None:
        """Begin to accept. TCP listeners get REST, Unix listeners what the edge forwards; their descriptors become ours."""
        self._thread.start()
        self._call(self._begin(listeners))

    def listen(self, listener: socket.socket) -> int:
        """Accept on one more listener; returns a number for `unlisten`. A gateway that leaves closes it instead and returns 0."""
        try:
            return int(self._call(self._listen(listener)))
        except (Unavailable, TimeoutError):  # it has stopped, or was about to
            listener.close()
            return 0

    def unlisten(self, number: int) -> None:
        """Accept on it no longer. Its connections stay."""
        self._call(self._unlisten(number))

    def apply(self, state: GatewayState) -> int:
        """Take over routes and limits; returns the revision now in force. An older state changes nothing."""
        return int(self._call(self._apply(state)))

    def set_peers(self, peers: dict[str, list[PeerAddress]]) -> None:
        """Take over where the replicas of each version key are."""
        self._loop.call_soon_threadsafe(self._set_peers, peers)

    def report(self) -> list[Any]:
        """Return the samples of this gateway (see Metrics in serving/README.md)."""
        return list(self._call(self._report()))

    def statistics_from(self, source: Source) -> None:
        """Say where to ask for what all gateways have counted. `source` is called in the gateway's thread."""
        assert self._host is not None
        self._host.statistics.source = source

    def take_lane(self, lane: int) -> None:
        """Count quotas together with the other gateways of this run directory; lane: the slot at the edge, which nobody else has."""
        self._call(self._take_lane(lane))

    def healthy(self, timeout_s: float = 5.0) -> None:
        """Return when the loop turns. Raises Unavailable where it does not within the time."""
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        if not turned.wait(timeout_s):
            raise Unavailable(f"the loop of gateway {self.name} has not turned for {timeout_s:g} s")

    def ready(self) -> bool:
        """True when every routed version has a replica that said hello."""
        return self._host is not None and self._host.service.ready

    def served(self) -> list[str]:
        """Return the keys of the versions that a replica answers now."""
        return list(self._call(self._served()))

    def drain(self, timeout_s: float) -> None:
        """Say that we leave, answer what is under way and what still comes on open connections, then close."""
        self._call(self._drain(timeout_s), timeout_s + 10.0)

    def stop(self) -> None:
        """Close everything at once and end the thread."""
        if self._thread.is_alive():
            self._call(self._close())
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)

    # In the loop's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float = 30.0) -> Any:
        if self._stopped:
            coroutine.close()
            raise Unavailable(f"gateway {self.name} has stopped")
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(timeout_s)

    async def _begin(self, listeners: list[socket.socket]) -> None:
        self._host = _Host(self._loop, self.name, self.run_dir)
        self._host.tick()
        for listener in listeners:
            await self._listen(listener)

    async def _listen(self, listener: socket.socket) -> int:
        host = self._host
        assert host is not None
        if host.draining or self._closed:
            listener.close()
            return 0
        listener.setblocking(False)
        if listener.family == socket.AF_UNIX:
            server = await self._loop.create_unix_server(lambda: HttpConnection(host, True), sock=listener, backlog=BACKLOG)  # type: ignore[arg-type, return-value]
        else:
            server = await self._loop.create_server(lambda: HttpConnection(host, False), sock=listener, backlog=BACKLOG)  # type: ignore[arg-type, return-value]
        self._last_listener += 1
        self._servers[self._last_listener] = (server, listener.family == socket.AF_UNIX)
        return self._last_listener

    async def _unlisten(self, number: int) -> None:
        server, _ = self._servers.pop(number, (None, False))
        if server is not None:
            server.close()

    async def _apply(self, state: GatewayState) -> int:
        assert self._host is not None
        return self._host.apply(state)

    def _set_peers(self, peers: dict[str, list[PeerAddress]]) -> None:
        assert self._host is not None
        self._host.service.set_peers(peers)

    async def _take_lane(self, lane: int) -> None:
        assert self._host is not None
        self._host.service.count_quotas_in(quota_file(self.run_dir), lane)

    async def _report(self) -> list[Any]:
        assert self._host is not None
        return self._host.tally.samples()

    async def _served(self) -> list[str]:
        assert self._host is not None
        return [s.key for _, versions in self._host.service.versions.models() for s in versions.values() if s is not None and s.ready]

    async def _drain(self, timeout_s: float) -> None:
        """Leave without a loss: (1) the edge hears it at its next look and sends elsewhere; (2) the TCP listeners are closed here, what
        waits in their queues waits for whoever gets them next; (3) what is open is answered, each answer saying that it is the last;
        (4) what stays idle for LINGER_S, with nothing left to read, is closed.
        """
        host = self._host
        assert host is not None
        host.drain()
        start = self._loop.time()
        by_edge = False
        for number, (_, of_edge) in list(self._servers.items()):
            by_edge |= of_edge
            if not of_edge:
                await self._unlisten(number)
        while (now := self._loop.time()) < start + timeout_s:
            told = host.edge_told or not by_edge or now - start > EDGE_ASKS_S
            quiet = now - max(start, host.last_request) > QUIET_S
            engaged = any(c.engaged for c in host.connections)
            lingered = now - start > min(LINGER_S, timeout_s / 2) or not host.connections_of_clients()
            if told and quiet and lingered and not engaged and not _unread(host.connections):
                break
            await asyncio.sleep(0.02)
        await host.service.drain(max(0.1, start + timeout_s - self._loop.time()))
        await self._close()

    async def _close(self) -> None:
        """Close what is open. Answers that have been given leave first; what is not answered is lost."""
        self._closed = True
        for number in list(self._servers):
            await self._unlisten(number)
        if self._host is not None:
            self._host.close()
            for connection in list(self._host.connections):
                if not connection.close_if_idle():
                    connection.abort()
            limit = self._loop.time() + CLOSE_S
            while self._loop.time() < limit:
                if not self._host.connections:
                    break
                await asyncio.sleep(0.002)


class _Host:
    """What connections share (`ports.Host`). Lives in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, run_dir: str) -> None:
        self._loop = loop
        self._now = loop.time()
        self._tick: asyncio.TimerHandle | None = None
        self.limits = GatewayLimits()
        self.draining = False
        self.last_request = 0.0
        self.connections: set[HttpConnection | Http2Connection] = set()
        self.arriving_bytes = 0
        self.turns = Turns(loop)
        self.edge_told = False
        self.tally = Tally()
        self.service = Service(self.tally, self.limits, loop, name, socket.gethostname())
        self.desk = DeskClient(Path(run_dir) / DESK_SOCKET)
        self.gate = Gate(self.service.met)
        self.statistics = Statistics(self.service)
        self.rest = RestApi(self.service, self.desk, self.statistics, self.turns)
        self.grpc = GrpcApi(self.service, OverHttp1(), self.desk, self.statistics)
        self.grpc2 = GrpcApi(self.service, OverHttp2(), self.desk, self.statistics)
        self._base_path = ""
        self.heads = HeadCache(self._route)
        self.heads2 = Http2Heads(self._route2)

    def now(self) -> float:
        return self._now

    def body_buffer(self, nbytes: int) -> memoryview | None:
        return self.service.body_buffer(nbytes)

    def note_request(self) -> None:
        self.last_request = self._loop.time()

    def _route(self, head: Head) -> Action:
        """Find the action of a head that was not seen before. Limits that the head alone can break are looked at here, not per request."""
        if self._base_path and head.path.startswith(self._base_path):
            head.path = head.path[len(self._base_path) - 1 :]
        self._name_client(head)
        grpc = head.method == b"POST" and _is_grpc(head)
        if not grpc and head.path.startswith(SERVICES):
            return _WRONG_KIND
        action = self.gate.guard(head, self.grpc.route(head), self.grpc.message) if grpc else self.gate.guard(head, self.rest.route(head))
        if action.refuses:
            return action
        if head.content_length > self.limits.max_body_bytes:
            return replace(action, run=self._too_large, streams=False)
        return action

    def _route2(self, head: Head) -> Action:
        """The same for HTTP/2, which is for gRPC here."""
        self._name_client(head)
        if head.method != b"POST" or not _is_grpc(head):
            return _NOT_GRPC
        return self.gate.guard(head, self.grpc2.route(head), self.grpc2.message)

    def _name_client(self, head: Head) -> None:
        header = self.limits.client_header
        if header:
            head.client = head.headers.get(header.encode(), b"")
        head.forwarded = self.service.forwarding.of(head)

    def become_http2(self, transport: asyncio.Transport) -> Http2Connection:
        return Http2Connection(self, self.heads2, transport)

    def drain(self) -> None:
        """Open streams end, connections over HTTP/2 are asked to go elsewhere, from now on those of HTTP/1.1 with each answer."""
        self.draining = self.service.leaving = True
        self.grpc.drain()
        self.grpc2.drain()
        for connection in list(self.connections):
            if isinstance(connection, Http2Connection):
                connection.drain()

    def _too_large(self, connection: HttpConnection, head: Head, body: object) -> None:
        raise too_large(head.content_length, self.limits.max_body_bytes)

    def apply(self, state: GatewayState) -> int:
        self.limits = state.limits
        self._base_path = f"{state.base_path}/" if state.base_path else ""
        before = self.service.wishes.log
        revision = self.service.apply(state)
        self.gate.apply(self.service.access)
        if self.service.wishes.log != before:
            _take_log_settings(self.service.wishes.log)
        self.heads.clear()
        self.heads2.clear()
        for connection in self.connections:
            if isinstance(connection, Http2Connection):
                connection.forget_heads()
        self.watch()
        return revision

    def watch(self) -> None:
        self.grpc.watch()
        self.grpc2.watch()

    def tick(self) -> None:
        """Advance the clock and look after connections that keep us waiting."""
        self._tick = self._loop.call_later(TICK_S, self.tick)
        self._now = now = self._loop.time()
        limits = self.limits
        for connection in list(self.connections):
            connection.check_time(now, limits)
        self.watch()

    def connections_of_clients(self) -> bool:
        return any(not c.trusted for c in self.connections)

    def close(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self.service.close()


def _unread(connections: Iterable[HttpConnection | Http2Connection]) -> bool:
    """Say whether something has come that nobody has read yet: after a stall of this process its timers run before its sockets are read."""
    poll = select.poll()
    for connection in connections:
        if (descriptor := connection.fileno()) >= 0:
            poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _take_log_settings(log: Mapping[str, Any]) -> None:
    told = log_of(log)
    telemetry.switch(
        info=told["log_info"],
        warning=told["log_warning"],
        error=told["log_error"],
        verbose=told["log_verbose_level"] > 0,
        iso_times=told["log_format"] == "ISO8601",
    )


def _is_grpc(head: Head) -> bool:
    """Whether it says application/grpc, with or without a subtype as `+proto`; application/grpc-web and others are not that."""
    kind = head.headers.get(b"content-type", b"").lower()
    return kind == _GRPC or kind.startswith((_GRPC + b"+", _GRPC + b";"))


def _not_grpc(stream: Http2Stream, head: Head, body: object) -> None:
    stream.write_plain(415, error_json("HTTP/2 is for gRPC here; REST speaks HTTP/1.1"))


def _wrong_kind(connection: HttpConnection, head: Head, body: object) -> None:
    connection.respond(415, b"application/json", error_json("gRPC is a POST with content-type application/grpc"))


_GRPC = b"application/grpc"
_WRONG_KIND = Action(_wrong_kind)
_NOT_GRPC = Action(_not_grpc)
