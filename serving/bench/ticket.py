"""Tickets: requests ready to be sent, in the order in which they are drawn, and where their outcomes go.

A phase of the run (warm-up, measurement) has tickets of its own: a request that began in the warm-up can so be told from the others
when its answer comes, at no cost for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice, repeat

import numpy as np

from serving.bench.request import Check, Request
from serving.bench.tape import Kind, TapeWriter

_DRAWN = 8192


class Ticket:
    """One request of one phase.

    answered  takes the latency in ns of a good answer
    wire      the driver's own form of it
    good      the last whole answer that was found right, which drivers compare the next one with; HTTP/2 keeps it in parts, without
              the number of the stream, and counts the data in it. `good_whole` has the WINDOW_UPDATE that came before it, too, and
              what that adds to the window
    good_frame  the same as it stands around one frame of data, for answers that hold other numbers: what comes before the data, with
              the five bytes of gRPC; the length of the rest of the data; what comes behind
    """

    __slots__ = (
        "_check", "_every", "_skip", "_tape", "answered", "good", "good_data", "good_frame", "good_parts", "good_whole", "number", "phase",
        "request", "wire",
    )  # fmt: skip

    def __init__(self, request: Request, number: int, phase: Kind, tape: TapeWriter, check_share: float) -> None:
        self.request = request
        self.number = number
        self.phase = phase
        self.answered: Callable[[int], None] = tape.sink(phase, number)
        self.wire = b""
        self.good: bytes | None = None
        self.good_parts: tuple[bytes, ...] | None = None
        self.good_data = 0
        self.good_whole: tuple[tuple[bytes, ...], int] | None = None
        self.good_frame: tuple[tuple[bytes, ...], int, tuple[bytes, ...]] | None = None
        self._tape = tape
        self._check: Check | None = request.check if check_share else None
        self._every = round(1 / check_share) if check_share else 0
        self._skip = 0

    def fail(self, kind: str, text: str = "", times: int = 1) -> None:
        self._tape.fail(self.phase, self.number, kind, text, times)

    def overtaken(self) -> None:
        """The measurement has begun: what is still under way is of the warm-up, and answered later."""
        self.phase = Kind.EARLY
        self.answered = self._tape.sink(Kind.EARLY, self.number)

    def wants_body(self) -> bool:
        """Ask once for each answer that differs from `good`: whether it is one of the share that is checked."""
        if self._check is None:
            return False
        self._skip -= 1
        if self._skip >= 0:
            return False
        self._skip = self._every - 1
        return True

    def wants_body_again(self) -> None:
        """Let the next `wants_body` say once more what the last one said: yes."""
        self._skip = 0

    def trusts(self, checked: bool) -> bool:
        """True where an answer may become `good`: it was checked, or nothing is."""
        return checked or self._check is None

    def judge(self, body: bytes) -> str | None:
        """Return what is wrong with a body. Behind a wrong one the next is checked too."""
        if self._check is None:
            return None
        wrong = self._check(body)
        if wrong is not None:
            self._skip = 0
        return wrong


class Deck:
    """The requests of a process, drawn by weight; the order comes from the seed."""

    def __init__(self, requests: Sequence[Request], tape: TapeWriter, check_share: float, seed: int) -> None:
        self._requests = requests
        self._tape = tape
        self._check_share = check_share
        self._seed = seed

    def tickets(self, phase: Kind) -> list[Ticket]:
        return [Ticket(request, number, phase, self._tape, self._check_share) for number, request in enumerate(self._requests)]

    def shuffled(self, tickets: Sequence[Ticket], limit: int = 0) -> Iterator[Ticket]:
        """Return the tickets over and over, by weight; `limit` above 0 ends it."""
        endless: Iterator[Ticket]
        if len(tickets) == 1:
            endless = repeat(tickets[0])
        else:
            weights = np.array([ticket.request.weight for ticket in tickets])
            drawn = np.random.default_rng(self._seed).choice(len(tickets), _DRAWN, p=weights / weights.sum())
            endless = cycle([tickets[number] for number in drawn.tolist()])
        return islice(endless, limit) if limit else endless
