"""VersionStatistics: what all gateways together have counted of one version, in the terms of the protocol's statistics extension."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any, NamedTuple, Self


class Sum(NamedTuple):
    """How many there were, and how long they took in all."""

    times: int = 0
    ns: int = 0


class Batches(NamedTuple):
    """Batches of one size: how many ran, and how long in all."""

    size: int
    times: int
    ns: int


NOTHING = Sum()


@dataclass(frozen=True, slots=True)
class VersionStatistics:
    """Sums since the engine began, over gateways that have gone too; none ever falls.

    success     answers, from submit to answer
    fail        requests that ended with an error, were taken back by their client (0 ns) or refused at the door (0 ns)
    queue       every request that was let in, and its time in a replica's queue
    compute     answers, each with the time of its whole batch
    rows        rows of all answers; executions: batches that they ran in
    last_ms     time of the last answer in ms since 1970, 0 = none
    """

    success: Sum = NOTHING
    fail: Sum = NOTHING
    queue: Sum = NOTHING
    compute: Sum = NOTHING
    rows: int = 0
    executions: int = 0
    last_ms: int = 0
    batches: tuple[Batches, ...] = field(default=())

    def to_json(self) -> list[Any]:
        return list(astuple(self))

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        success, fail, queue, compute, rows, executions, last_ms, batches = value
        return cls(Sum(*success), Sum(*fail), Sum(*queue), Sum(*compute), rows, executions, last_ms, tuple(Batches(*b) for b in batches))
