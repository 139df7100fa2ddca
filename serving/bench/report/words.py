"""How numbers and results are written for people: short, with their units, the same in tables and plots."""

from __future__ import annotations

from collections.abc import Sequence

from serving.bench.result import Result


def duration(ms: float | None) -> str:
    """Return a latency with three digits and the unit that suits it: '250 µs', '12.5 ms', '1.5 s'; '-' for None."""
    if ms is None:
        return "-"
    if ms == 0:
        return "0"
    if ms < 0.9995:
        return f"{_three(ms * 1000)} µs"
    return f"{_three(ms)} ms" if ms < 999.5 else f"{_three(ms / 1000)} s"


def rate(per_s: float | None) -> str:
    """Return '12,345/s', with decimals below 100; '-' for None."""
    return "-" if per_s is None else f"{_plain(per_s)}/s"


def count(number: float) -> str:
    """Return a number for an axis: '950', '12k', '1.5M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return _three(number / size) + letter
    return _three(number)


def size(nbytes: float | None) -> str:
    """Return '1.5 GiB'; '-' for None."""
    if nbytes is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            break
        nbytes /= 1024
    return f"{_three(nbytes)} {unit}"


def share(part: float) -> str:
    """Return a share in percent: '0.02 %'."""
    return f"{_three(part * 100)} %"


def titles(results: Sequence[Result]) -> list[str]:
    """Return a name for each result, from what tells them apart; numbered where nothing does."""
    if len({result.name for result in results}) == len(results) and all(result.name for result in results):
        return [result.name for result in results]
    facets = [(r.name, r.target.server, r.target.protocol, r.target.driver, r.target.model, r.target.url, r.load.words) for r in results]
    telling = [column for column in zip(*facets, strict=True) if len(set(column)) > 1]
    named = [" ".join(filter(None, row)) for row in zip(*telling, strict=True)] if telling else ["run"] * len(results)
    if len(set(named)) == len(named):
        return named
    return [f"{name} #{number}" for number, name in enumerate(named, 1)]


def about(result: Result) -> str:
    """Return one line on what was measured: model, protocol, load, length."""
    target = result.target
    driver = "" if target.driver == "raw" else f" by {target.driver}"
    times = f"{len(result.repetitions)} × " if len(result.repetitions) > 1 else ""
    length = result.duration_s / max(len(result.repetitions), 1)
    said = f"{target.model or 'requests'} over {target.protocol}{driver}, {result.load.words}, {times}{_plain(length)} s"
    return f"{said} · {target.server}" if target.server else said


def _plain(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.3g}"


def _three(number: float) -> str:
    if abs(number) >= 999.5:
        return f"{number:,.0f}"
    text = f"{number:.3g}"
    return f"{number:.6f}".rstrip("0") if "e" in text else text
