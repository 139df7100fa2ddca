"""Ledger: adds up what all processes of a node have counted, and keeps what the gone ones had, so that no counter ever falls.

Knows samples, no sockets and no clock. A sample is cumulative since its process began (serving/README.md, Metrics); of time stamps the
latest counts. A process is named by (name, pid), so one that connects again goes on and is not counted twice. Gauges of a process that
has gone are dropped: nothing of it is in flight any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import Metric

from serving.edge.words import HELP

_MAX_SERIES = 50_000
_MAX_GONE = 64
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, str, Labels]
"""kind, name, labels"""
Bounds = tuple[float, ...]


class Histogram:
    """Counts per bucket (one more than bounds) and the sum of what was observed. Histograms with other bounds do not add."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Bounds, counts: Sequence[float], total: float) -> None:
        if len(counts) != len(bounds) + 1 or list(bounds) != sorted(bounds):
            raise ValueError("a histogram has sorted bounds and one count more than bounds")
        self.bounds, self.counts, self.sum = bounds, list(counts), total

    def __add__(self, other: Histogram) -> Histogram:
        if self.bounds != other.bounds:
            return max(self, other, key=lambda h: h.total)
        return Histogram(self.bounds, [a + b for a, b in zip(self.counts, other.counts, strict=True)], self.sum + other.sum)

    @property
    def total(self) -> float:
        return sum(self.counts)


class Table:
    """Rows of counts by name; rows of the same name add."""

    __slots__ = ("rows",)

    def __init__(self, rows: dict[str, list[int]]) -> None:
        self.rows = rows

    def __add__(self, other: Table) -> Table:
        rows = dict(self.rows)
        for name, row in other.rows.items():
            mine = rows.get(name)
            rows[name] = row if mine is None else [a + b for a, b in zip(mine, row, strict=False)]
        return Table(rows)


Value = float | Histogram | Table
Report = dict[Series, Value]


class Ledger:
    """Reports of all processes, by process."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._live: dict[str, Report] = {}
        self._gone: dict[str, Report] = {}
        self._folded: Report = {}

    def identify(self, connection: str, process: str) -> None:
        """From now on reports of `connection` are those of `process`; what it reported before it reconnected is replaced."""
        self._names[connection] = process

    def record(self, connection: str, samples: Iterable[Sequence[Any]]) -> None:
        """Take the last report of a connection in place of its earlier one. Raises ValueError or TypeError for what is no sample."""
        process = self._names.setdefault(connection, f"connection {connection}")
        report = dict(_parse(sample) for sample in samples)
        if len(report) > _MAX_SERIES:
            raise ValueError(f"a report of {len(report)} series; at most {_MAX_SERIES} are taken")
        self._gone.pop(process, None)
        self._live[process] = report

    def leave(self, connection: str) -> None:
        """The process has gone: its counters stay, its gauges go."""
        process = self._names.pop(connection, None)
        report = self._live.pop(process, None) if process is not None else None
        if process is None or report is None:
            return
        self._gone[process] = {series: value for series, value in report.items() if series[0] != "gauge"}
        if len(self._gone) > _MAX_GONE:
            self._folded = _sum([self._folded, self._gone.pop(next(iter(self._gone)))])

    def totals(self) -> Report:
        """Return the sum over all processes, gone ones included."""
        return _sum([self._folded, *self._gone.values(), *self._live.values()])


def families(totals: Report) -> Iterator[Metric]:
    """Yield the totals as prometheus_client wants them."""
    found: dict[tuple[str, str], Metric] = {}
    for (kind, name, labels), value in sorted(totals.items(), key=lambda item: item[0]):
        if isinstance(value, Table):
            continue
        base = name.removesuffix("_total") if kind == "counter" else name
        kind = "gauge" if kind == "latest" else kind
        family = found.setdefault((kind, base), Metric(base, HELP.get(name, base.replace("_", " ")), kind))
        if isinstance(value, Histogram):
            _add_histogram(family, dict(labels), value)
        else:
            family.add_sample(f"{base}_total" if kind == "counter" else base, dict(labels), value)
    yield from found.values()


def _add_histogram(family: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    running = 0.0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        running += count
        le = "+Inf" if bound == float("inf") else repr(bound)
        family.add_sample(f"{family.name}_bucket", {**labels, "le": le}, running)
    family.add_sample(f"{family.name}_count", labels, running)
    family.add_sample(f"{family.name}_sum", labels, histogram.sum)


def _parse(sample: Sequence[Any]) -> tuple[Series, Value]:
    name, kind, labels, value = sample
    if not all(map(_NAME.fullmatch, (name, *labels))):
        raise ValueError(f"names of a sample are letters, digits and underscores: {name!r} {sorted(labels)}")
    series = (str(kind), str(name), tuple(sorted((str(k), str(v)) for k, v in labels.items())))
    if kind == "histogram":
        bounds = tuple(float(b) for b in value["bounds"])
        return series, Histogram(bounds, [float(c) for c in value["counts"]], float(value["sum"]))
    if kind == "table":
        return series, Table({str(name): [int(n) for n in row] for name, row in value.items()})
    if kind not in ("counter", "gauge", "latest"):
        raise ValueError(f"a sample is a counter, gauge, histogram, table or latest, not {kind!r}")
    return series, float(value)


def _sum(reports: Iterable[Report]) -> Report:
    total: Report = {}
    for report in reports:
        for series, value in report.items():
            known = total.get(series)
            total[series] = value if known is None else _add(series[0], known, value)
    return total


def _add(kind: str, a: Value, b: Value) -> Value:
    """Return the sum of two values of one series, which are of the same kind because the kind is part of the series."""
    match a, b:
        case Histogram(), Histogram():
            return a + b
        case Table(), Table():
            return a + b
        case ((int() | float()), (int() | float())):
            return max(a, b) if kind == "latest" else a + b
    raise TypeError(f"{kind} of two kinds: {a!r}, {b!r}")
