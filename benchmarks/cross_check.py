"""Whether `serving bench` says what wrk and h2load say: p50 against a server of a fixed latency, far below half of what it can carry.

scripts/bench-overhead --cross-check
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks import tester, wrk
from benchmarks.answer import SameBody
from benchmarks.ask import Ask
from benchmarks.peers import fixed_latency
from benchmarks.process import Running
from serving.bench.request import GRPC_INFER, grpc_body

LATENCY_MS = 20.0
CONNECTIONS = 8
ROUNDS = 3
AT_MOST = 0.05
"""So far apart p50 may be, as a share of theirs."""
_BODY = b"q" * 400


@dataclass(frozen=True, slots=True)
class Agreement:
    """p50 in ms by both, the medians of some rounds in turns."""

    protocol: Literal["rest", "grpc"]
    tool: str
    bench_p50_ms: float
    tool_p50_ms: float

    @property
    def apart(self) -> float:
        return abs(self.bench_p50_ms / self.tool_p50_ms - 1)

    @property
    def passed(self) -> bool:
        return self.apart <= AT_MOST

    @property
    def words(self) -> str:
        return (
            f"{self.protocol}: p50 {self.bench_p50_ms:.2f} ms by serving bench, {self.tool_p50_ms:.2f} ms by {self.tool}, "
            f"{self.apart:.1%} apart"
        )

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "apart": round(self.apart, 4), "passed": self.passed}


def measure(seconds: float = 2.0, rounds: int = ROUNDS) -> list[Agreement]:
    """Load the server of a fixed latency by both in turns, over REST and gRPC."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        server = fixed_latency.launch(Path(folder), LATENCY_MS)
        try:
            return list(_agreements(server, seconds, rounds, Path(folder)))
        finally:
            server.stop()


def show(found: Sequence[Agreement]) -> bool:
    """Print what was found; return whether all agree."""
    print(f"cross-check: a server that answers after {LATENCY_MS:g} ms, {CONNECTIONS} connections; at most {AT_MOST:.0%} apart")
    for one in found:
        print(f"  {one.words}  {'pass' if one.passed else 'FAIL'}", flush=True)
    return all(one.passed for one in found)


def _agreements(server: Running, seconds: float, rounds: int, scratch: Path) -> Iterator[Agreement]:
    answer = fixed_latency.ANSWER
    asks = (
        Ask("rest", "m", "/v2/models/m/infer", _BODY, SameBody(answer)),
        Ask("grpc", "m", GRPC_INFER, grpc_body(_BODY), SameBody(grpc_body(answer)), {}, len(answer) + 5),
    )
    for ask in asks:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(tester.measure(server, ask, CONNECTIONS, seconds).measured.p50_ms)
            theirs.append(wrk.measure(server, ask, CONNECTIONS, seconds, scratch).p50_ms)
        yield Agreement(ask.protocol, "wrk" if ask.protocol == "rest" else "h2load", round(median(ours), 4), round(median(theirs), 4))
