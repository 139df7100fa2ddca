"""The server's side of a measurement: what its statistics say about queue and compute, and what its processes used.

Statistics are those of V2's extension, read before and after. Processes are those behind the port, where it is on this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.bench.figures import Server
from serving.bench.process_tree import Usage

_SPANS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server counted of some models since it started: requests and ns by span, batches by size."""

    requests: int = 0
    executions: int = 0
    ns: tuple[int, ...] = (0,) * len(_SPANS)
    batches: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]]) -> Counts:
        """Return the sum of entries of `model_stats`. Numbers may be text, as protobuf's JSON has 64-bit ones."""
        requests = executions = 0
        ns = [0] * len(_SPANS)
        batches: dict[int, int] = {}
        for entry in entries:
            spans = entry.get("inference_stats") or {}
            requests += _number(spans.get("success"), "count")
            executions += _number(entry, "execution_count")
            for i, span in enumerate(_SPANS):
                ns[i] += _number(spans.get(span), "ns")
            for batch in entry.get("batch_stats") or ():
                size = _number(batch, "batch_size")
                batches[size] = batches.get(size, 0) + _number(batch.get("compute_infer"), "count")
        return cls(requests, executions, tuple(ns), tuple(sorted(batches.items())))

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1)

    def _with(self, other: Counts, sign: int) -> Counts:
        batches = dict(self.batches)
        for size, count in other.batches:
            batches[size] = batches.get(size, 0) + sign * count
        return Counts(
            self.requests + sign * other.requests,
            self.executions + sign * other.executions,
            tuple(a + sign * b for a, b in zip(self.ns, other.ns, strict=True)),
            tuple((size, count) for size, count in sorted(batches.items()) if count),
        )


def _number(value: Any, key: str) -> int:
    try:
        return int((value or {}).get(key) or 0)
    except (TypeError, ValueError, AttributeError):
        return 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The server at one moment. None: it has no statistics; its processes are not known."""

    counts: Counts | None
    usage: Usage | None


def between(before: Reading, after: Reading, *, mean_latency_ms: float | None, answers: int, wall_s: float) -> Server:
    """Return what the server did between two readings, as far as it can be known.

    mean_latency_ms: of the good answers, as the client saw it. Counts that went down (the server was restarted) say nothing.
    The readings take in warm-up and what was under way at the end, so times are means over all of it, and CPU is divided by `answers`
    of the same span.
    """
    split: dict[str, Any] = {}
    if before.counts is not None and after.counts is not None:
        done = after.counts - before.counts
        if done.requests > 0 and min(done.ns) >= 0:
            _, queue, *compute = (ns / done.requests / 1e6 for ns in done.ns)
            split = {"queue_ms": queue, "compute_ms": sum(compute)}
            if mean_latency_ms is not None:
                split["network_ms"] = max(0.0, mean_latency_ms - queue - sum(compute))
            split["batch_sizes"] = {str(size): count for size, count in done.batches if count > 0}
    if before.usage is not None and after.usage is not None:
        cpu_s = max(0.0, after.usage.cpu_s - before.usage.cpu_s)
        split |= {
            "cpu_s_per_1000": cpu_s / answers * 1000 if answers else None,
            "cores": cpu_s / wall_s if wall_s > 0 else None,
            "rss_bytes": after.usage.rss_bytes,
            "pss_bytes": after.usage.pss_bytes,
        }
    return Server(**split)
