"""What the face alone cannot say about traffic: shares that do not add up, versions that are not there, conditions that say nothing."""

from __future__ import annotations

from collections.abc import Iterator

from serving.routing import POINTS, bad_pattern
from serving.spec.face import RuleFace, ShadowFace, StickyFace, TrafficFace
from serving.spec.problem import Finding, Path, dotted, printable, quoted

OF_THE_EDGE = "x-serving-client"


def points(percent: float) -> int:
    """Return a share in points."""
    return round(percent * POINTS / 100)


def traffic_findings(at: Path, traffic: TrafficFace, versions: list[str]) -> Iterator[Finding]:
    """Yield what is wrong with the traffic of a model that stands at `at` and has these versions."""
    yield from _version((*at, "stable"), traffic.stable, versions)
    yield from _split(at, traffic, versions)
    if traffic.sticky is not None:
        yield from _sticky((*at, "sticky"), traffic.sticky, bool(traffic.split))
    seen: dict[tuple[str | None, ...], int] = {}
    for i, rule in enumerate(traffic.rules):
        here = (*at, "rules", i)
        yield from _rule(here, rule, versions)
        condition = (rule.header and rule.header.lower(), rule.parameter, rule.equals, rule.matches)
        first = seen.setdefault(condition, i)
        if first != i:
            yield Finding(here, f"{dotted(here)}: rules[{first}] has the same condition and comes first")
    for i, shadow in enumerate(traffic.shadow):
        yield from _shadow(at, i, shadow, traffic, versions)


def _version(path: Path, version: str, versions: list[str], at_key: bool = False) -> Iterator[Finding]:
    if version not in versions:
        message = f"{dotted(path)}: there is no version {quoted(version)}, expected one of {', '.join(versions)}"
        yield Finding(path, message, ((*path[:2], "versions", version),), at_key)


def _split(at: Path, traffic: TrafficFace, versions: list[str]) -> Iterator[Finding]:
    split, here = traffic.split, (*at, "split")
    for version, percent in split.items():
        yield from _version((*here, version), version, versions, at_key=True)
        yield from _steps((*here, version), percent)
    total = sum(map(points, split.values()))
    if split and total != POINTS:
        yield Finding(here, f"{dotted(here)}: expected 100 percent in all, got {total * 100 / POINTS:.12g}", (), at_key=True)
    if split and traffic.stable in versions and traffic.stable not in split:
        message = f"{dotted(here)}: the stable version {traffic.stable} is missing; write {traffic.stable}: 0 where it is to have none"
        yield Finding(here, message, ((*at, "stable"),), at_key=True)


def _steps(path: Path, percent: float) -> Iterator[Finding]:
    if abs(percent * POINTS / 100 - points(percent)) > 1e-6:
        yield Finding(path, f"{dotted(path)}: expected steps of {100 / POINTS:g}, got {percent:.12g}")


def _sticky(at: Path, sticky: StickyFace, split: bool) -> Iterator[Finding]:
    given = [sticky.header is not None, sticky.parameter is not None, sticky.address]
    if sum(given) != 1:
        said = f"{dotted(at)}: expected one of header, parameter, address: true"
        yield Finding(at, said, tuple((*at, name) for name in ("header", "parameter", "address")), at_key=True)
    elif not split:
        yield Finding(at, f"{dotted(at)}: there is nothing to stay with, split is missing", ((*at[:-1], "split"),), at_key=True)
    yield from _header((*at, "header"), sticky.header)


def _rule(at: Path, rule: RuleFace, versions: list[str]) -> Iterator[Finding]:
    yield from _version((*at, "version"), rule.version, versions)
    if (rule.header is None) == (rule.parameter is None):
        yield Finding(at, f"{dotted(at)}: expected one of header, parameter")
    if (rule.equals is None) == (rule.matches is None):
        yield Finding(at, f"{dotted(at)}: expected one of equals, matches")
    yield from _header((*at, "header"), rule.header)
    wrong = bad_pattern(rule.matches) if rule.matches is not None else ""
    if wrong:
        yield Finding((*at, "matches"), f"{dotted((*at, 'matches'))}: not a regular expression of RE2: {printable(wrong)}")


def _header(path: Path, name: str | None) -> Iterator[Finding]:
    if name is not None and name.lower() == OF_THE_EDGE:
        yield Finding(path, f"{dotted(path)}: {OF_THE_EDGE} is the edge's own")


def _shadow(at: Path, place: int, shadow: ShadowFace, traffic: TrafficFace, versions: list[str]) -> Iterator[Finding]:
    here: Path = (*at, "shadow", place, "version")
    yield from _version(here, shadow.version, versions)
    yield from _steps((*here[:-1], "percent"), shadow.percent)
    if shadow.version == traffic.stable and not traffic.split and not traffic.rules:
        yield Finding(here, f"{dotted(here)}: version {shadow.version} answers all requests itself", ((*at, "stable"),))
    first = [other.version for other in traffic.shadow].index(shadow.version)
    if first != place:
        yield Finding(here, f"{dotted(here)}: shadow[{first}] has version {shadow.version} already")
