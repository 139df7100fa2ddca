"""Delivery figures, counted from the record of events. Pure. Every figure is of a window of time, for all models and for each one.

deployment            another version, or the same with other contents or resources, holds an endpoint (`live`) because of an `apply`.
                      A `live` that a rollback brought about is a restoration and no deployment
frequency             deployments a day of the window
lead time             of a deployment: from the apply that first declared this version with these contents and resources, until it
                      holds the endpoint with all its replicas. Of applies that are on record
change failure rate   failures of changes that are done. A change is an apply that led to a deployment in the window, or to a failed
                      start in it: a version that it brought failed, and the model has gone no further with it until its next change.
                      A failure is a failed start, or a deployment whose model was rolled back by its next change
time to restore       of a deployment that was rolled back: from when it held the endpoint until what the rollback asked for did; of an
                      outage (the version that holds an endpoint is down): until that version is ready or another holds it. A failed
                      start never touches what serves and has no time to restore
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from serving.control.event import Filter, Recorded
from serving.control.ports import Store

DAY_S = 86_400.0
WINDOW_S = 30 * DAY_S
EVENTS = 50_000
"""Of each kind, the newest that are looked at."""
_CHANGES = ("apply", "rollback", "delete", "restore")


@dataclass(frozen=True, slots=True)
class Times:
    """Lengths of time in seconds; None where there was none."""

    count: int
    median_s: float | None
    longest_s: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        return cls(len(values), median(values), max(values)) if values else cls(0, None, None)


@dataclass(frozen=True, slots=True)
class Kpis:
    """The four figures of one model, or of all."""

    days: float
    deployments: int
    deployments_per_day: float
    lead_time: Times
    changes: int
    failures: int
    change_failure_rate: float | None
    time_to_restore: Times

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Counted:
    """What was found of one model in the window."""

    leads: list[float]
    deployments: int
    failures: int
    failed_starts: int
    restored: list[float]

    def __add__(self, other: _Counted) -> _Counted:
        return _Counted(
            self.leads + other.leads,
            self.deployments + other.deployments,
            self.failures + other.failures,
            self.failed_starts + other.failed_starts,
            self.restored + other.restored,
        )

    def figures(self, days: float) -> Kpis:
        changes = self.deployments + self.failed_starts
        failures = self.failures + self.failed_starts
        return Kpis(
            days=days,
            deployments=self.deployments,
            deployments_per_day=self.deployments / days,
            lead_time=Times.of(self.leads),
            changes=changes,
            failures=failures,
            change_failure_rate=failures / changes if changes else None,
            time_to_restore=Times.of(self.restored),
        )


def history(store: Store) -> list[Recorded]:
    """Return the events that figures are counted from, oldest first."""
    kinds = (*_CHANGES, "live", "version")
    return sorted((e for kind in kinds for e in store.events(Filter(kind=kind, limit=EVENTS))), key=lambda e: e.number)


def count(events: Iterable[Recorded], since: float, until: float) -> tuple[Kpis, dict[str, Kpis]]:
    """Return the figures of the window (since, until], of all models together and of each that has had an event."""
    by_model: dict[str, list[Recorded]] = {}
    for event in events:
        if event.event.model:
            by_model.setdefault(event.event.model, []).append(event)
    days = max(until - since, 1.0) / DAY_S
    counted = {model: _model(of, since, until) for model, of in sorted(by_model.items())}
    total = sum(counted.values(), _Counted([], 0, 0, 0, []))
    return total.figures(days), {model: c.figures(days) for model, c in counted.items()}


def _model(events: list[Recorded], since: float, until: float) -> _Counted:
    found = _Counted([], 0, 0, 0, [])
    declared: dict[tuple[str, str], float] = {}
    spans = _spans(events)
    for i, (change, followed) in enumerate(spans):
        brought = {key for key in _versions(change) if key not in declared}
        for key in brought:
            declared[key] = change.at
        undone = i + 1 < len(spans) and spans[i + 1][0].event.kind == "rollback"
        lives = [e for e in followed if e.event.kind == "live"]
        if change.event.kind == "apply":
            for live in lives:
                if since < live.at <= until:
                    found.deployments += 1
                    if (key := _key(live)) in declared:
                        found.leads.append(live.at - declared[key])
            if lives and undone and since < lives[0].at <= until:
                found.failures += 1
            numbers = {version for version, _ in brought}
            failed = next((e for e in followed if e.event.kind == "version.failed" and e.event.version in numbers), None)
            if not lives and failed and since < failed.at <= until:
                found.failed_starts += 1
        elif change.event.kind == "rollback" and lives and since < lives[0].at <= until:
            bad = [e for e in spans[i - 1][1] if e.event.kind == "live"] if i else []
            found.restored += [lives[0].at - bad[0].at] if bad else []
    found.restored += [end - begin for begin, end in _outages(events) if since < end <= until]
    return found


def _spans(events: list[Recorded]) -> list[tuple[Recorded, list[Recorded]]]:
    """Return each change with what followed it until the next one."""
    spans: list[tuple[Recorded, list[Recorded]]] = []
    for event in events:
        if event.event.kind in _CHANGES:
            spans.append((event, []))
        elif spans:
            spans[-1][1].append(event)
    return spans


def _outages(events: list[Recorded]) -> list[tuple[float, float]]:
    """Return from when until when the version that held the endpoint was down."""
    found: list[tuple[float, float]] = []
    holder, down = "", 0.0
    for e in events:
        kind, version = e.event.kind, e.event.version
        if kind == "version.down" and version == holder and not down:
            down = e.at
        elif down and (kind == "live" or (kind == "version.ready" and version == holder)):
            found.append((down, e.at))
            down = 0.0
        if kind == "live":
            holder = version
    return found


def _versions(change: Recorded) -> set[tuple[str, str]]:
    after = change.event.after or {}
    return {(version, told["code"]) for version, told in after.get("versions", {}).items()}


def _key(live: Recorded) -> tuple[str, str]:
    return live.event.after["version"], live.event.after["code"]


def samples(store: Store, now: float) -> list[list[Any]]:
    """Return the figures of the last 30 days as samples for the metrics page: gauges, for each model. What there is none of is left out."""
    _, models = count(history(store), now - WINDOW_S, now)
    found: list[list[Any]] = [["serving_events", "gauge", {}, store.newest_event()]]
    for model, k in models.items():
        values = {
            "serving_deployments_30d": k.deployments,
            "serving_change_failure_ratio_30d": k.change_failure_rate,
            "serving_lead_time_median_seconds_30d": k.lead_time.median_s,
            "serving_time_to_restore_median_seconds_30d": k.time_to_restore.median_s,
        }
        found += [[name, "gauge", {"model": model}, value] for name, value in values.items() if value is not None]
    return found
