"""The table of the README's "How fast": what is compared, the floors, and what measurements say to them. No processes, no clocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from serving.bench.interval import paired_ratio

Measure = Literal["per_s", "p50_ms", "p99_ms", "cpu_s_per_1000", "client_cpu_s_per_1000", "cpu_cores"]
Runs = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
"""row → system → one mapping of measures for each round."""


@dataclass(frozen=True, slots=True)
class Row:
    """One workload under one load, on every system that it is compared with."""

    key: str
    title: str
    protocol: Literal["rest", "grpc"]
    model: str
    connections: int
    systems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Floor:
    """ours ÷ theirs has to be at least or at most `limit`; for cores it is ours minus theirs."""

    row: str
    measure: Measure
    against: str
    bound: Literal["at least", "at most"]
    limit: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A floor with what was measured: medians over the rounds, and their ratio (a difference for cores).

    interval  95 % of the ratio by rounds in pairs, as `serving bench compare` has it; None with one round, and for cores
    """

    floor: Floor
    ours: float
    theirs: float
    ratio: float
    passed: bool
    interval: tuple[float, float] | None = None


FURTHER = {
    "kserve": "KServe's SDK, no batching",
    "mlserver": "MLServer (JSON)",
    "litserve": "LitServe (base64 in JSON)",
    "bentoml": "BentoML (base64 in JSON)",
}
"""Systems without floors, in environments of their own; a whole run takes those that are installed."""

ROWS = (
    Row("mlp-rest", "mlp, REST binary, 64 connections", "rest", "mlp", 64, ("engine", "triton", "ray", "ray-fast", "fastapi", *FURTHER)),
    Row("mlp-grpc", "mlp, gRPC, 64 connections", "grpc", "mlp", 64, ("engine", "triton", "ray-fast")),
    Row("mlp-rest-1", "mlp, REST binary, 1 connection", "rest", "mlp", 1, ("engine", "triton", *FURTHER)),
    Row("mlp-grpc-1", "mlp, gRPC, 1 connection", "grpc", "mlp", 1, ("engine", "triton")),
    Row("mlp-rest-16", "mlp, REST binary, 16 connections", "rest", "mlp", 16, ("engine", "triton")),
    Row("resnet", "resnet, REST binary, 16 connections, one replica", "rest", "resnet", 16, ("engine", "bare", "triton")),
    Row("resnet-two", "resnet, REST binary, 16 connections, two replicas", "rest", "resnet", 16, ("engine-two", "bare-two")),
    Row("echo-rest", "echo, REST binary, 64 connections", "rest", "echo", 64, ("engine", "triton", "httptools", "fastapi")),
    Row("echo-grpc", "echo, gRPC, 64 connections", "grpc", "echo", 64, ("engine", "triton")),
    Row("echo-600k", "echo of 600 KB, REST binary, 16 connections", "rest", "echo_image", 16, ("engine-two", "httptools")),
)
IDLE = "idle"

FLOORS = (
    Floor("mlp-rest", "per_s", "ray", "at least", 100),
    Floor("mlp-rest", "per_s", "ray-fast", "at least", 12),
    Floor("mlp-rest", "per_s", "triton", "at least", 3),
    Floor("mlp-grpc", "per_s", "ray-fast", "at least", 20),
    Floor("mlp-grpc", "per_s", "triton", "at least", 2),
    Floor("mlp-rest-1", "p50_ms", "triton", "at most", 0.7),
    Floor("mlp-grpc-1", "p50_ms", "triton", "at most", 0.95),
    Floor("mlp-rest-16", "p99_ms", "triton", "at most", 1),
    Floor("resnet", "per_s", "bare", "at least", 0.95),
    Floor("resnet-two", "per_s", "bare-two", "at least", 0.85),
    Floor("echo-rest", "cpu_s_per_1000", "triton", "at most", 0.5),
    Floor("echo-grpc", "cpu_s_per_1000", "triton", "at most", 0.6),
    Floor("echo-600k", "cpu_s_per_1000", "httptools", "at most", 1),
    Floor(IDLE, "cpu_cores", "ray-empty", "at most", 0.06),
)

SYSTEMS = FURTHER | {
    "ray": "Ray Serve, default",
    "ray-fast": "Ray Serve, HAProxy and throughput flags",
    "fastapi": "FastAPI on uvicorn, no batching",
    "triton": "Triton, Python backend",
    "engine": "this engine",
    "bare": "the bare model in a loop, best batch",
    "bare-two": "the same in two processes",
    "engine-two": "this engine, two replicas of resnet",
    "httptools": "bare httptools echo",
    "ray-empty": "Ray Serve with as many empty replicas",
}
"""In the order of a round: what a floor compares runs next to each other, so that a machine that drifts does so for both."""

_TITLES = {row.key: row.title for row in ROWS} | {IDLE: "nothing to do"}
_COLUMNS: tuple[Measure, ...] = ("per_s", "p50_ms", "p99_ms", "cpu_s_per_1000", "client_cpu_s_per_1000")
_MEASURES: dict[Measure, tuple[str, float, str]] = {
    "per_s": ("answers a second", 1, "{:,.0f}"),
    "p50_ms": ("p50, ms", 1, "{:.2f}"),
    "p99_ms": ("p99, ms", 1, "{:.2f}"),
    "cpu_s_per_1000": ("server CPU for an answer, µs", 1000, "{:,.0f}"),
    "client_cpu_s_per_1000": ("client CPU for an answer, µs", 1000, "{:,.0f}"),
    "cpu_cores": ("CPU, % of a core", 100, "{:.1f}"),
}


def middle(runs: Runs, row: str, system: str, measure: Measure) -> float | None:
    """Median over the rounds, None where nothing was measured."""
    found = [run[measure] for run in runs.get(row, {}).get(system, []) if measure in run]
    return median(found) if found else None


def verdicts(runs: Runs) -> Iterator[Verdict]:
    """Every floor whose two sides were measured."""
    for floor in FLOORS:
        ours = next((v for name in ("engine", "engine-two") if (v := middle(runs, floor.row, name, floor.measure)) is not None), None)
        theirs = middle(runs, floor.row, floor.against, floor.measure)
        if ours is None or theirs is None:
            continue
        ratio = ours - theirs if floor.measure == "cpu_cores" else ours / theirs
        passed = ratio >= floor.limit if floor.bound == "at least" else ratio <= floor.limit
        yield Verdict(floor, ours, theirs, ratio, passed, _interval(runs, floor))


def _interval(runs: Runs, floor: Floor) -> tuple[float, float] | None:
    found = runs.get(floor.row, {})
    ours = [run[floor.measure] for name in ("engine", "engine-two") for run in found.get(name, ()) if floor.measure in run]
    theirs = [run[floor.measure] for run in found.get(floor.against, ()) if floor.measure in run]
    if floor.measure == "cpu_cores" or len(ours) < 2 or len(ours) != len(theirs) or min(*ours, *theirs) <= 0:
        return None
    return paired_ratio(theirs, ours)[1:]


def cells(verdict: Verdict) -> tuple[str, ...]:
    """Workload, measure, ours, against whom, theirs, ratio, its interval, floor, verdict: as words."""
    floor = verdict.floor
    name, scale, form = _MEASURES[floor.measure]
    ratio, limit = _ratio(verdict.ratio), f"{floor.limit:g}"
    if floor.measure == "cpu_cores":
        ratio, limit = f"{verdict.ratio:+.1%}", f"{floor.limit:+.0%}"
    return (
        _TITLES[floor.row],
        name,
        form.format(verdict.ours * scale),
        SYSTEMS[floor.against],
        form.format(verdict.theirs * scale),
        ratio,
        " to ".join(map(_ratio, verdict.interval)) if verdict.interval else "–",
        f"{floor.bound} {limit}",
        "pass" if verdict.passed else "FAIL",
    )


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


HEADER = ("workload", "measure", "engine", "against", "theirs", "ratio", "95 %", "floor", "")


def markdown(runs: Runs, machine: Mapping[str, object], date: str, rounds: int, notes: Sequence[str] = ()) -> str:
    """The README's tables: the floors, then every system's figures; `notes` stand between them."""
    lines = [
        f"Measured {date}: {machine['processor']}, {machine['cores']} cores shared by server and client, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}; medians of {rounds} interleaved rounds, one thread of torch for every system.",
        "",
    ]
    lines += _table(HEADER[:-1], [cells(v)[:-1] for v in verdicts(runs)])
    lines += [line for note in notes for line in ("", note)]
    others = []
    for row in ROWS:
        for system in row.systems:
            if middle(runs, row.key, system, "per_s") is not None:
                shown = [_shown(runs, row.key, system, measure) for measure in _COLUMNS]
                others.append((row.title, SYSTEMS[system], *shown, _errors(runs[row.key][system])))
    heads = ("workload", "system", *(_MEASURES[measure][0] for measure in _COLUMNS), "errors")
    lines += ["", "<details><summary>Everything that was measured</summary>", "", *_table(heads, others), "", "</details>"]
    return "\n".join(lines) + "\n"


def _shown(runs: Runs, row: str, system: str, measure: Measure) -> str:
    value = middle(runs, row, system, measure)
    _, scale, form = _MEASURES[measure]
    return form.format(value * scale) if value else "–"


def _errors(rounds: Sequence[Mapping[str, float]]) -> str:
    """All rounds' together; "–" where the generator did not count them."""
    counted = [run["errors"] for run in rounds if "errors" in run]
    return f"{sum(counted):,.0f}" if counted else "–"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    numbers = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---:" if n else "---" for n in numbers) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.lstrip("+-")[:1].isdigit()


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the rows in columns, for a terminal."""
    everything = [header, *rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything)
