"""The server of `edge.sock`: hands listeners to gateways and takes their reports.

The keeper keeps a copy of every TCP listener, so that an accept queue outlives the gateway that served it. It keeps none of the Unix
listeners: when a gateway dies its socket must refuse at once, for then HAProxy goes to the next slot within the same request.
A keeper that replaces a dead one takes the listeners back from the live gateways (`reclaim`) and opens only those that are missing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from serving.edge.collection import Collection
from serving.edge.config import EDGE_SOCKET, EdgeConfig
from serving.edge.lane import Lane, Message
from serving.edge.ledger import Ledger
from serving.edge.listeners import answers, listens_on, open_tcp, open_unix, probe, turn_away
from serving.edge.shares import Shares
from serving.edge.statistics import statistics
from serving.errors import ServingError

_log = logging.getLogger(__name__)
HTTP_FLAG, GRPC_FLAG = "--http-port", "--grpc-port"
_LATE_CHECK_S = 0.5
_PROBE_S = 0.05


class Member(NamedTuple):
    """A connected gateway. `id` is unique among all connections that this keeper has seen."""

    id: str
    name: str
    pid: int


class Handover:
    """Slots, listeners and reports of one node. Belongs to the keeper's loop."""

    def __init__(self, config: EdgeConfig, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        self._shares = Shares(config.slots)
        self._ports: list[tuple[int, str]] = []
        if config.http_port and not config.rest_through_edge:
            self._ports.append((config.http_port, HTTP_FLAG))
        if config.grpc_port and not config.grpc_through_edge:
            self._ports.append((config.grpc_port, GRPC_FLAG))
        # Listener n + k * slots is the one of port k whose home is slot n; those of one slot move together.
        self._tcp: list[socket.socket | None] = [None] * (config.slots * len(self._ports))
        self._members: dict[str, tuple[Member, Lane]] = {}
        self._lanes: set[Lane] = set()
        self._kinds: dict[str, str] = {}
        """Of connections that hold no slot, what kind of process it is."""
        self.gateways = Collection()
        self.others = Collection()
        self._server: socket.socket | None = None
        self._opened = asyncio.Event()
        self._awaited: set[int] = set()
        self._reclaimed = asyncio.Event()
        self._waiting: list[Callable[[], None]] = []
        self._late: asyncio.Task[None] | None = None
        self._ending = False
        self._count = 0

    async def start(self) -> None:
        """Listen on `edge.sock`, take back what live gateways hold, open the rest. Raises Unavailable when a port is taken."""
        crashed = self._find_living()
        self._server = open_unix(self._config.path(EDGE_SOCKET))
        asyncio.get_running_loop().add_reader(self._server.fileno(), self._accept)
        if self._awaited:
            _log.info("waiting for the gateways of slots %s to hand their listeners back", sorted(self._awaited))
            try:
                await asyncio.wait_for(self._reclaimed.wait(), self._config.reclaim_s)
            except TimeoutError:
                _log.warning("no gateway spoke for slots %s within %g s", sorted(self._awaited), self._config.reclaim_s)
        for number, (port, flag) in enumerate(self._ports):
            await self._probe(number, port, flag, crashed)
        self._opened.set()
        if self._awaited:
            self._late = asyncio.create_task(self._await_late())
        else:
            self._open_missing()
        for serve in self._waiting:
            serve()
        self._waiting.clear()

    def close(self) -> None:
        """Close everything. Gateways that are still there keep their own copies of the listeners."""
        if self._server is not None:
            asyncio.get_running_loop().remove_reader(self._server.fileno())
            self._server.close()
            Path(self._config.path(EDGE_SOCKET)).unlink(missing_ok=True)
        if self._late is not None:
            self._late.cancel()
        self.gateways.close()
        self.others.close()
        for lane in list(self._lanes):
            lane.close()
        for listener in self._tcp:
            if listener is not None:
                listener.close()
        self._tcp = [None] * len(self._tcp)

    def last_call(self) -> None:
        """Nobody will follow the gateways that are there: nobody new is let in, and once all gateways leave the TCP listeners close."""
        self._ending = True
        for listener in self._tcp:
            if listener is not None:
                turn_away(listener)
        self._close_doors()

    def _close_doors(self) -> None:
        if self._ending and all(self._shares.is_draining(member) for member in self._members):
            for number, listener in enumerate(self._tcp):
                if listener is None:
                    continue
                listener.close()
                self._tcp[number] = None
                for _, lane in self._members.values():
                    lane.send({"release": number})  # of its copy

    def status(self) -> list[dict[str, Any]]:
        """Return who holds which slot; slots without a gateway are left out."""
        held = ((slot, self._members[h][0]) for slot, h in enumerate(self._shares.holders) if h is not None)
        acceptors = self._shares.acceptors
        return [
            {
                "slot": slot,
                "name": member.name,
                "pid": member.pid,
                "draining": self._shares.is_draining(member.id),
                "listeners": [n for n, a in enumerate(acceptors) if a == member.id],
            }
            for slot, member in held
        ]

    async def _probe(self, number: int, port: int, flag: str, crashed: bool) -> None:
        """Raise Unavailable when somebody else has the port. After a crash it may still be a gateway that has not spoken yet."""
        deadline = asyncio.get_running_loop().time() + (self._config.reclaim_s if crashed else 0.0)
        slots = self._config.slots
        while not any(self._tcp[number * slots : (number + 1) * slots]):
            try:
                probe(self._config.host, port, flag)
                return
            except ServingError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(_PROBE_S)

    def _find_living(self) -> bool:
        """Note which gateways outlived the keeper before; return True when that one left without a word."""
        for slot in range(self._config.slots):
            path = self._config.gateway_path(slot)
            if answers(path):
                self._awaited.add(slot)
            else:
                Path(path).unlink(missing_ok=True)
        return Path(self._config.path(EDGE_SOCKET)).exists()

    async def _await_late(self) -> None:
        """Open what is missing once every gateway of the keeper before has spoken or gone.

        Not before: the late ones hold listeners themselves, and a second set would change everybody's share of the connections.
        """
        while self._awaited:
            try:
                await asyncio.wait_for(self._reclaimed.wait(), _LATE_CHECK_S)
            except TimeoutError:
                self._awaited = {slot for slot in self._awaited if answers(self._config.gateway_path(slot))}
        self._open_missing()

    def _open_missing(self) -> None:
        for number, listener in enumerate(self._tcp):
            if listener is None:
                which, home = divmod(number, self._config.slots)
                opened = open_tcp(self._config.host, *self._ports[which], shared=True)
                self._tcp[number] = opened
                acceptor = self._shares.acceptors[home]
                if acceptor is not None:
                    self._members[acceptor][1].send({"adopt": number}, [opened])
        self._settle()

    def _accept(self) -> None:
        assert self._server is not None
        try:
            sock, _ = self._server.accept()
        except OSError:
            return
        self._count += 1
        connection = str(self._count)
        lane = Lane(sock, lambda message, sockets: self._receive(connection, lane, message, sockets), lambda: self._gone(connection, lane))
        self._lanes.add(lane)

    def _receive(self, connection: str, lane: Lane, message: Message, sockets: list[socket.socket]) -> None:
        try:
            if "claim" in message and connection not in self._members:
                self._introduce(connection, lane, message, sockets)
                sockets = []
            elif "process" in message and connection not in self._members:
                self._kinds[connection] = str(message["process"])
                self._ledger.identify(connection, f"{message['name']}/{int(message['pid'])}")
            elif "report" in message:
                self._ledger.record(connection, message["report"])
                self._collection(connection).reported(connection, lane, int(message.get("asked", 0)))
            elif "collect" in message:
                self._collect(lane, int(message["collect"]), str(message["model"]))
            elif message.get("draining") and connection in self._members:
                self._shares.drain(connection)
                self._settle()
                self._close_doors()
        except ServingError as error:
            lane.send({"error": error.message})
        except (KeyError, ValueError, TypeError, IndexError) as error:
            _log.warning("a message on %s cannot be read, its connection is closed: %r", EDGE_SOCKET, error)
            lane.close()
        finally:
            for sock in sockets:
                sock.close()

    def _collection(self, connection: str) -> Collection:
        return self.gateways if self._kinds.get(connection, "gateway") == "gateway" else self.others

    def _collect(self, lane: Lane, number: int, model: str) -> None:
        """Answer with the statistics of a model, "" = all, as soon as all gateways have reported."""

        def done() -> None:
            found = statistics(self._ledger.totals())
            told = [[*version, value.to_json()] for version, value in found.items() if model in ("", version[0])]
            lane.send({"collected": number, "statistics": told})

        try:
            self.gateways.ask(done)
        except ServingError as error:
            lane.send({"collected": number, "refused": error.message})

    def _introduce(self, connection: str, lane: Lane, message: Message, sockets: list[socket.socket]) -> None:
        member = Member(connection, str(message["name"]), int(message["pid"]))
        self._ledger.identify(connection, f"{member.name}/{member.pid}")
        if "reclaim" in message:
            self._reclaim(member, lane, message, sockets)
        elif self._opened.is_set():
            self._claim(member, lane)
        else:
            self._waiting.append(lambda: self._claim(member, lane))

    def _claim(self, member: Member, lane: Lane) -> None:
        if lane.closed:
            return
        # a free slot that still answers belongs to a gateway that has lost its connection to us
        free = (slot for slot, holder in enumerate(self._shares.holders) if holder is None)
        slot = self._shares.claim(member.id, [slot for slot in free if answers(self._config.gateway_path(slot))])
        if slot is None:
            lane.send({"error": f"no free slot: all {self._config.slots} are held"})
            return
        self._members[member.id] = (member, lane)
        unix = open_unix(self._config.gateway_path(slot))
        numbers, tcp = [], []
        for number in self._numbers(slot):
            listener = self._tcp[number]
            if listener is not None:
                numbers.append(number)
                tcp.append(listener)
        lane.send({"slot": slot, "tcp": numbers}, [*tcp, unix])
        unix.close()
        _log.info("gateway %s (pid %d) holds slot %d", member.name, member.pid, slot)
        self._settle()

    def _reclaim(self, member: Member, lane: Lane, message: Message, sockets: Sequence[socket.socket]) -> None:
        slot, numbers = int(message["reclaim"]), [int(n) for n in message["tcp"]]
        slots = self._config.slots
        fits = len(numbers) == len(sockets) and all(0 <= n < len(self._tcp) for n in numbers)
        losers = self._shares.reclaim(member.id, slot, sorted({n % slots for n in numbers})) if fits else None
        if losers is None:
            for sock in sockets:
                sock.close()
            lane.send({"error": f"slot {slot} is held by another"})
            return
        self._members[member.id] = (member, lane)
        for number, sock in zip(numbers, sockets, strict=True):
            if self._tcp[number] is None and listens_on(sock, self._config.host, self._ports[number // slots][0]):
                self._tcp[number] = sock
            else:
                sock.close()
        if message.get("draining"):
            self._shares.drain(member.id)
        unix = [] if answers(self._config.gateway_path(slot)) else [open_unix(self._config.gateway_path(slot))]
        lane.send({"slot": slot}, unix)
        for listener in unix:
            listener.close()
        for home, loser in losers:
            for number in self._numbers(home):
                self._members[loser][1].send({"release": number})
        _log.info("gateway %s (pid %d) goes on with slot %d", member.name, member.pid, slot)
        self._awaited.discard(slot)
        if not self._awaited:
            self._reclaimed.set()
        self._settle()

    def _settle(self) -> None:
        """Make the shares even and tell everybody whom it concerns. Adopt first: a listener is never without somebody who holds it."""
        if not self._opened.is_set():
            return
        for home, old, new in self._shares.settle():
            for number in self._numbers(home):
                listener = self._tcp[number]
                if listener is None:
                    continue
                if self._shares.slot_of(new) != home:
                    self._members[new][1].send({"adopt": number}, [listener])
                if old in self._members and self._shares.slot_of(old) != home:
                    self._members[old][1].send({"release": number})

    def _numbers(self, slot: int) -> range:
        """Return the numbers of the listeners whose home is this slot, one for each port."""
        return range(slot, len(self._tcp), self._config.slots)

    def _gone(self, connection: str, lane: Lane) -> None:
        self._lanes.discard(lane)
        self._ledger.leave(connection)
        self._collection(connection).leave(connection)
        self._kinds.pop(connection, None)
        if connection not in self._members:
            return
        member, _ = self._members.pop(connection)
        slot = self._shares.leave(connection)
        if slot is not None and not answers(self._config.gateway_path(slot)):
            Path(self._config.gateway_path(slot)).unlink(missing_ok=True)
        _log.info("gateway %s (pid %d) has left slot %s", member.name, member.pid, slot)
        self._settle()
