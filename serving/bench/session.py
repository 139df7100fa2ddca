"""Session: one run as one process sees it: connections, warm-up, measurement, answers that are still to come, end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from serving.bench.connection import Connection, Pace
from serving.bench.dial import Address, Tls
from serving.bench.http1 import Http1Driver
from serving.bench.http2 import Http2Driver
from serving.bench.load import Closed, Load, Open
from serving.bench.pace import ClosedPace, OpenPace
from serving.bench.reactor import Reactor
from serving.bench.request import Request
from serving.bench.tape import AFTER, End, Kind, State, TapeWriter
from serving.bench.ticket import Deck, Ticket

Wire = Literal["rest", "grpc"]

_S = 1_000_000_000
_FLUSH_NS = 10_000_000
_STATE_NS = 250_000_000
_PREPARE_NS = 10 * _S
_BEFOREHAND_S = 0.005


class Driver(Protocol):
    """A protocol: makes the bytes of requests, and connections that send them."""

    streams: int

    def prepare(self, ticket: Ticket) -> None: ...

    def connection(self, reactor: Reactor, pace: Pace, slots: int) -> Connection: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What a process has to do: the `part`-th of `parts` equal shares of a load."""

    address: Address
    tls: Tls | None
    protocol: Wire
    requests: tuple[Request, ...]
    load: Load
    part: int
    parts: int

    def share(self, total: int) -> int:
        return total // self.parts + (self.part < total % self.parts)


class Session:
    """`begin` is to be called at the time that all processes were given; `interrupt` ends the measurement now."""

    def __init__(self, order: Order, tape: TapeWriter, reactor: Reactor) -> None:
        self._order = order
        self._load = load = order.load
        self._tape = tape
        self._reactor = reactor
        self._deck = Deck(order.requests, tape, load.check_share, load.seed + order.part)
        self._driver: Driver
        if order.protocol == "grpc":
            self._driver = Http2Driver(order.address, order.tls, load.new_connection, load.streams)
        else:
            self._driver = Http1Driver(order.address, order.tls, load.new_connection)
        self._pace: ClosedPace | OpenPace
        if isinstance(load.shape, Closed):
            self._pace = ClosedPace(reactor)
        else:
            self._pace = OpenPace(reactor, tape, math.ceil(load.shape.arrivals.mean_rate / order.parts * _BEFOREHAND_S))
        self._tickets: list[Ticket] = []
        self._phase = "starting"
        self._phase_began = 0
        self._phase_s = 0.0
        self._zero = 0
        self._flushed = 0
        self._began = self._ended = 0
        self._cpu_s = 0.0
        self._before = (0, 0)
        self._interrupted = False
        self._times_over = False
        self._over = False

    def prepare(self) -> None:
        """Open connections; a state "ready" goes out when none is on its way any more."""
        for slots in connection_slots(self._order, self._driver.streams):
            self._pace.add(self._driver.connection(self._reactor, self._pace, slots))
        now = time.monotonic_ns()
        self._pace.prepare(now)
        self._wait_for_connections(now, now + _PREPARE_NS)

    def begin(self, now: int) -> None:
        """Start the load. The first second of the measurement begins behind the warm-up."""
        self._zero = now + round(self._load.warm_up_s * _S)
        if self._load.warm_up_s:
            self._enter("warming up", now, self._load.warm_up_s)
            self._deal(Kind.WARM, now, self._zero)
            self._reactor.at(self._zero, self._measure)
        else:
            self._measure(now)
        self._tick(now)
        self._watch(now)

    def interrupt(self, now: int) -> None:
        """End the measurement before its time."""
        self._interrupted = True
        if self._phase == "measuring":
            self._end(now)
        elif self._phase == "draining":
            self._give_up(now)
        else:
            self._began = self._ended = now
            self._finish(now)

    def close(self) -> None:
        """Close all connections, behind the end."""
        for connection in self._pace.connections:
            connection.shut()

    def _wait_for_connections(self, now: int, until: int) -> None:
        if now < until and any(connection.opening for connection in self._pace.connections):
            self._reactor.at(now + _FLUSH_NS, lambda then: self._wait_for_connections(then, until))
        else:
            self._tape.state(State("ready", now, 0.0, 0))

    def _deal(self, phase: Kind, begin: int, end: int) -> None:
        load, pace = self._load, self._pace
        self._tickets = self._deck.tickets(phase)
        for ticket in self._tickets:
            self._driver.prepare(ticket)
        limit = self._order.share(load.max_requests) if phase is Kind.GOOD else 0
        now = time.monotonic_ns()
        if isinstance(pace, OpenPace):
            pace.start(self._deck.shuffled(self._tickets), self._times(begin, end, limit), now)
        else:
            pace.start(self._deck.shuffled(self._tickets, limit), now)

    def _times(self, begin: int, end: int, limit: int) -> Iterator[int]:
        """Give this process's share of the arrivals, up to `end`, or `limit` of them, where these are not 0."""
        shape, part, parts = self._load.shape, self._order.part, self._order.parts
        assert isinstance(shape, Open)
        skipped = given = 0
        for chunk in shape.arrivals.chunks(self._load.seed):
            mine = chunk[(part - skipped) % parts :: parts] + begin
            skipped += len(chunk)
            if limit:
                mine = mine[: limit - given]
                given += len(mine)
            if end and mine.size and mine[-1] >= end:
                yield from mine[mine < end].tolist()
                return
            yield from mine.tolist()
            if limit and given >= limit:
                break
        self._times_over = True

    def _measure(self, now: int) -> None:
        if self._over:
            return
        self._flush(now)
        for ticket in self._tickets:
            ticket.overtaken()
        self._began = now
        self._cpu_s = time.process_time()
        self._before = (self._pace.reconnects, self._pace.received)
        self._enter("measuring", now, self._load.duration_s)
        end = self._zero + round(self._load.duration_s * _S) if self._load.duration_s else 0
        self._deal(Kind.GOOD, self._zero, end)
        if end:
            self._reactor.at(end, self._end)

    def _end(self, now: int) -> None:
        if self._phase != "measuring":
            return
        self._flush(now)
        self._cpu_s = time.process_time() - self._cpu_s
        self._ended = now
        self._enter("draining", now, self._load.drain_s)
        self._pace.end(now)
        self._reactor.at(now + round(self._load.drain_s * _S), self._give_up)

    def _give_up(self, now: int) -> None:
        if self._over:
            return
        for connection in self._pace.connections:
            for ticket in connection.tickets():
                ticket.fail("not answered", "under way when the time to wait at the end was over")
        self._finish(now)

    def _finish(self, now: int) -> None:
        self._over = True
        self._flush(now)
        pace = self._pace
        self._tape.end(
            End(
                began_ns=self._began,
                ended_ns=self._ended,
                cpu_s=self._cpu_s,
                connections=sum(connection.openings > 0 for connection in pace.connections),
                reconnects=pace.reconnects - self._before[0],
                received_bytes=pace.received - self._before[1],
                waited=pace.waited,
                interrupted=self._interrupted,
                warnings=tuple(dict.fromkeys(warning for connection in pace.connections for warning in connection.warnings)),
            )
        )
        self._reactor.stop()

    def _tick(self, now: int) -> None:
        """Every 10 ms, and at each full second."""
        if self._over:
            return
        self._flush(now)
        pace = self._pace
        if self._phase == "measuring" and self._all_sent() and not pace.in_flight:
            self._end(max(pace.exhausted_at, self._began))
        if self._phase == "draining" and not pace.in_flight:
            self._finish(now)
            return
        self._reactor.at(min(now + _FLUSH_NS, now + _S - (now - self._zero) % _S), self._tick)

    def _all_sent(self) -> bool:
        """True when the load ends by its number of requests or of arrivals, and all of them are on their way or further."""
        if isinstance(self._pace, ClosedPace):
            return self._pace.exhausted_at > 0
        return self._times_over and not self._pace.queued

    def _flush(self, now: int) -> None:
        measuring = self._phase == "measuring"
        self._tape.flush((self._flushed - self._zero) // _S if measuring and self._flushed >= self._zero else 0 if measuring else AFTER)
        self._flushed = now

    def _watch(self, now: int) -> None:
        """Four times a second: say how it stands, end what has taken too long."""
        if self._over:
            return
        pace = self._pace
        self._tape.state(State(self._phase, self._phase_began, self._phase_s, pace.in_flight))
        before = now - round(self._load.timeout_s * _S)
        for connection in pace.connections:
            connection.expire(before, now)
        self._reactor.at(now + min(_STATE_NS, round(self._load.timeout_s * _S / 4)), self._watch)

    def _enter(self, phase: str, now: int, seconds: float) -> None:
        self._phase, self._phase_began, self._phase_s = phase, now, seconds
        self._tape.state(State(phase, now, seconds, self._pace.in_flight))


def connection_slots(order: Order, streams: int) -> list[int]:
    """Return for each connection of a process how many requests it takes at a time."""
    load = order.load
    in_flight = order.share(load.in_flight)
    if not load.connections:
        count = math.ceil(in_flight / streams)
    else:
        count = max(1, min(order.share(load.connections), in_flight))
        if isinstance(load.shape, Closed):
            count = max(count, math.ceil(in_flight / streams))
        else:
            in_flight = min(in_flight, count * streams)
    return [in_flight // count + (number < in_flight % count) for number in range(count)]
