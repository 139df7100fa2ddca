"""Pace: which request goes out when, and on which connection. Closed: as soon as a slot is free. Open: when its arrival is due."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from time import monotonic_ns

from serving.bench.connection import Connection, Stage
from serving.bench.reactor import NEVER, Reactor
from serving.bench.tape import Kind, TapeWriter
from serving.bench.ticket import Ticket

_FIRST_PAUSE_NS = 10_000_000
_LONGEST_PAUSE_NS = 100_000_000
_PAUSE_EACH_NS = 100_000
_LONG_QUEUE = 100_000


class PaceBase(ABC):
    """Connections that wait are idle (open, without a request) or shut; before `start` and after `end` nothing is sent.

    exhausted_at   when last a slot became free and there was nothing to send on it; 0 before that
    """

    def __init__(self, reactor: Reactor) -> None:
        self.connections: list[Connection] = []
        self.exhausted_at = 0
        self.waited = 0
        self.reconnects = 0
        self.running = False
        self._reactor = reactor
        self._tickets: Iterator[Ticket] = iter(())
        self._idle: list[Connection] = []
        self._pauses_ns: dict[Connection, int] = {}

    @property
    def in_flight(self) -> int:
        return sum(connection.busy for connection in self.connections)

    @property
    def queued(self) -> int:
        """Requests that are due and wait for a connection."""
        return 0

    @property
    def received(self) -> int:
        return sum(connection.received for connection in self.connections)

    @abstractmethod
    def prepare(self, now: int) -> None:
        """Open connections before the start."""

    def end(self, now: int) -> None:
        """Send nothing more."""
        self.running = False
        self._tickets = iter(())

    def add(self, connection: Connection) -> None:
        self.connections.append(connection)

    def withdraw(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle = [one for one in self._idle if one is not connection]

    @abstractmethod
    def ready(self, connection: Connection, now: int) -> None: ...

    @abstractmethod
    def free(self, connection: Connection, now: int) -> None: ...

    def _exhausted(self, now: int) -> None:
        if self.running:
            self.exhausted_at = now

    def _pause_ns(self, connection: Connection) -> int:
        """Return how long to leave a server alone that takes no connection: twice as long each time, up to 10,000 tries a second in all."""
        pause = self._pauses_ns.get(connection, _FIRST_PAUSE_NS)
        self._pauses_ns[connection] = min(2 * pause, _LONGEST_PAUSE_NS + _PAUSE_EACH_NS * len(self.connections))
        return pause


class ClosedPace(PaceBase):
    def __init__(self, reactor: Reactor) -> None:
        super().__init__(reactor)
        self._started = 0

    def prepare(self, now: int) -> None:
        for connection in self.connections:
            connection.open(now)

    def start(self, tickets: Iterator[Ticket], now: int) -> None:
        """Draw from these from now on."""
        self._tickets = tickets
        if self.running:
            return
        self.running = True
        self._started = now
        idle, self._idle = self._idle, []
        for connection in idle:
            self.free(connection, now)
        for connection in self.connections:
            if connection.stage is Stage.SHUT:
                connection.open(now)

    def ready(self, connection: Connection, now: int) -> None:
        self._pauses_ns.pop(connection, None)
        wanted = max(connection.wanted, self._started)
        for _ in range(connection.slots):
            if connection.stage is not Stage.OPEN:
                return
            ticket = next(self._tickets, None) if self.running else None
            if ticket is None:
                self._exhausted(now)
                self._idle.append(connection)
            else:
                connection.begin(ticket, wanted, now)

    def free(self, connection: Connection, now: int) -> None:
        ticket = next(self._tickets, None)
        if ticket is None:
            self._exhausted(now)
            connection.rest()
            self._idle.append(connection)
            return
        start = monotonic_ns()
        connection.begin(ticket, start, start)

    def unopened(self, connection: Connection, kind: str, text: str, now: int) -> None:
        if not self.running:
            return
        for _ in range(connection.slots):
            ticket = next(self._tickets, None)
            if ticket is None:
                self._exhausted(now)
                return
            ticket.fail(kind, text)
        self._reactor.at(now + self._pause_ns(connection), lambda then: self._again(connection, then))

    def gone(self, connection: Connection, now: int) -> None:
        self.withdraw(connection)
        self._again(connection, now)

    def _again(self, connection: Connection, now: int) -> None:
        if self.running and connection.stage is Stage.SHUT:
            self.reconnects += 1
            connection.open(now)


class OpenPace(PaceBase):
    """Connections are opened when no open one is idle. The last one that became idle goes first, so that few are used.

    A request for which there is none waits; the first one that becomes free takes the one that has waited longest.
    """

    def __init__(self, reactor: Reactor, tape: TapeWriter, first: int) -> None:
        super().__init__(reactor)
        self._first = first
        self._late = tape.sink(Kind.LATE, 0)
        self._times: Iterator[int] = iter(())
        self._next = NEVER
        self._queue: deque[int] = deque()
        self._shut: list[Connection] = []
        self._coming = 0
        self._not_before = 0
        reactor.on_due = self._dispatch

    def add(self, connection: Connection) -> None:
        super().add(connection)
        self._shut.append(connection)

    @property
    def queued(self) -> int:
        return len(self._queue)

    def prepare(self, now: int) -> None:
        for _ in range(min(self._first, len(self._shut))):
            self._coming += 1
            self._shut.pop().open(now)

    def start(self, tickets: Iterator[Ticket], times: Iterator[int], now: int) -> None:
        """Draw from these from now on, at these times. What is still due from before is dropped: it was the warm-up's."""
        self._tickets = tickets
        self._times = times
        self._queue.clear()
        self.waited = 0
        self.running = True
        self._next = self._reactor.due = next(times, NEVER)

    def end(self, now: int) -> None:
        """Send nothing more; what was due and waits still has failed."""
        unsent = len(self._queue)
        while self._next <= now:
            unsent += 1
            self._next = next(self._times, NEVER)
        missed = Counter(next(self._tickets) for _ in range(unsent))
        for ticket, times in missed.items():
            ticket.fail("not sent", "was due and found no free connection until the end", times)
        self._queue.clear()
        self._reactor.due = NEVER
        super().end(now)

    def ready(self, connection: Connection, now: int) -> None:
        self._coming -= 1
        self._pauses_ns.clear()
        for _ in range(connection.slots):
            if connection.stage is not Stage.OPEN:
                return
            self.free(connection, now)

    def free(self, connection: Connection, now: int) -> None:
        if self._queue:
            self._launch(connection, self._queue.popleft())
        else:
            self._exhausted(now)
            connection.rest()
            self._idle.append(connection)

    def unopened(self, connection: Connection, kind: str, text: str, now: int) -> None:
        self._coming -= 1
        self._shut.append(connection)
        self._not_before = now + self._pause_ns(connection)
        if self._queue:
            self._queue.popleft()
            next(self._tickets).fail(kind, text)
        self._reactor.at(self._not_before, self._open_more)

    def gone(self, connection: Connection, now: int) -> None:
        self.reconnects += 1
        self._exhausted(now)
        self.withdraw(connection)
        self._shut.append(connection)
        self._open_more(now)

    def _dispatch(self, now: int) -> None:
        due, times, idle, queue = self._next, self._times, self._idle, self._queue
        while due <= now and len(queue) < _LONG_QUEUE:
            if idle and not queue:
                self._launch(idle.pop(), due)
            else:
                queue.append(due)
                self.waited += 1
            due = next(times, NEVER)
        self._next = due
        self._reactor.due = due if due > now else now + _FIRST_PAUSE_NS
        if queue:
            self._open_more(now)

    def _launch(self, connection: Connection, intended: int) -> None:
        now = monotonic_ns()
        self._late(now - intended)
        connection.begin(next(self._tickets), intended, now)

    def _open_more(self, now: int) -> None:
        if not self.running or now < self._not_before:
            return
        while self._shut and self._coming < len(self._queue):
            self._coming += 1
            self._shut.pop().open(now)
