"""A route's traffic in words, for plans and for the status. One line each, whatever the names and patterns hold."""

from __future__ import annotations

from serving.routing.parts import POINTS
from serving.routing.route import PLAIN, Route, Shadow


def traffic_words(route: Route) -> str:
    """Return which versions answer: "2", or "95 % to 1 and 5 % to 2 by header x-user; header x-tester = 'yes' to 2; copies of 1 % to 3"."""
    if route.traffic == PLAIN:
        return route.stable
    traffic = route.traffic
    parts = [f"{percent(points)} to {version}" for version, points in route.shares.items()]
    said = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    if traffic.sticky is not None:
        said += f" by {traffic.sticky.by}{f' {_safe(traffic.sticky.name)}' if traffic.sticky.name else ''}"
    sign = {"equals": "=", "matches": "~"}
    rules = [f"{r.by} {_safe(r.name)} {sign[r.how]} {r.text!r} to {r.version}" for r in traffic.rules]
    copies = [f"copies of {percent(s.points)} to {s.version}{_budget(s)}" for s in traffic.shadows]
    return "; ".join([said, *rules, *copies])


def part_words(route: Route, version: str) -> str:
    """Return what one version gets of a route: "5 %, by rule, copies of 10 %"; "" for one that has to be asked for by its number."""
    traffic = route.traffic
    share = route.shares.get(version, 0)
    said = [percent(share)] if share else []
    if any(r.version == version for r in traffic.rules):
        said.append("by rule")
    said += [f"copies of {percent(s.points)}" for s in traffic.shadows if s.version == version]
    return ", ".join(said)


def percent(points: int) -> str:
    return f"{points * 100 / POINTS:g} %"


def _budget(shadow: Shadow) -> str:
    usual = Shadow(shadow.version, shadow.points)
    if shadow == usual:
        return ""
    return f" (at most {shadow.max_inflight_requests} and {shadow.max_inflight_bytes / (1 << 20):g} MB under way)"


def _safe(name: str) -> str:
    return name if name.isprintable() and " " not in name else repr(name)
