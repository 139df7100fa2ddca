"""Delivery figures: a golden record of events, and what each rule says of it."""

from __future__ import annotations

from typing import Any

import pytest

from serving.control.event import GENESIS, Event, Recorded, chained
from serving.control.kpis import DAY_S, Kpis, Times, count, samples
from tests.control.fake_cluster import FakeStore

Line = tuple[float, str, str, dict[str, str]]
"""Time, kind, version, and of a change: the contents of each version."""


def change(at: float, kind: str, **versions: str) -> Line:
    return at, kind, "", {v.removeprefix("v"): code for v, code in versions.items()}


def apply(at: float, **versions: str) -> Line:
    return change(at, "apply", **versions)


def live(at: float, version: str, code: str) -> Line:
    return at, "live", version, {"": code}


def happened(at: float, kind: str, version: str) -> Line:
    return at, kind, version, {}


def record(*lines: Line, model: str = "mlp") -> list[Recorded]:
    events: list[Recorded] = []
    for at, kind, version, codes in lines:
        after: Any = {"versions": {v: {"code": code} for v, code in codes.items()}} if not version else None
        if kind == "live":
            after = {"version": version, "code": codes[""]}
        previous = events[-1].hash if events else GENESIS
        events.append(chained(Event(kind, "", model, version, after=after), len(events) + 1, at, previous))
    return events


def figures(*lines: Line, since: float = 0.0, until: float = 1000.0) -> Kpis:
    return count(record(*lines), since, until)[0]


def test_nothing_gives_nothing() -> None:
    assert figures() == Kpis(1000 / DAY_S, 0, 0.0, Times(0, None, None), 0, 0, None, Times(0, None, None))


def test_a_golden_record() -> None:
    found = figures(
        apply(100, v1="a"), live(110, "1", "a"),
        apply(200, v1="a", v2="b"),                        # declared first, beside the stable one
        apply(260, v1="a", v2="b"), live(265, "2", "b"),    # lead time from 200
        change(300, "rollback", v1="a"), live(301, "1", "a"),
        apply(400, v1="a", v3="x"), happened(405, "version.failed", "3"),
        apply(500, v1="a", v3="c"), live(530, "3", "c"),
        happened(600, "version.down", "3"), happened(607, "version.ready", "3"),
        until=DAY_S,
    )  # fmt: skip
    assert (found.deployments, found.deployments_per_day) == (3, 3.0)
    assert found.lead_time == Times(3, 30.0, 65.0)
    assert (found.changes, found.failures, found.change_failure_rate) == (4, 2, 0.5)
    assert found.time_to_restore == Times(2, 21.5, 36.0)


@pytest.mark.parametrize(
    ("lines", "deployments", "failures"),
    [
        ([apply(1, v1="a"), live(2, "1", "a"), apply(3, v1="b"), live(4, "1", "b")], 2, 0),  # other contents of the same version
        ([apply(1, v1="a"), happened(2, "version.failed", "1"), live(3, "1", "a")], 1, 0),  # failed at first, and came up
        ([apply(1, v1="a"), live(2, "1", "a"), happened(3, "version.failed", "1")], 1, 0),  # failed later: an outage, no bad change
        ([apply(1, v1="a"), live(2, "1", "a"), change(3, "delete"), change(4, "rollback", v1="a"), live(5, "1", "a")], 1, 0),
        ([apply(1, v1="a"), live(2, "1", "a"), apply(3, v1="a"), happened(4, "version.failed", "1")], 1, 0),  # it brought nothing new
        ([apply(1, v1="a")], 0, 0),  # still under way
    ],
)
def test_what_is_a_deployment_and_what_a_failure(lines: list[Line], deployments: int, failures: int) -> None:
    found = figures(*lines)
    assert (found.deployments, found.failures) == (deployments, failures)


def test_an_outage_ends_with_another_version_too_and_one_of_another_version_is_none() -> None:
    begun = [apply(1, v1="a", v2="b"), live(2, "1", "a"), happened(3, "version.down", "2"), happened(4, "version.ready", "2")]
    assert figures(*begun).time_to_restore == Times(0, None, None)
    ended = [happened(10, "version.down", "1"), apply(12, v1="a", v2="b"), live(15, "2", "b")]
    assert figures(*begun, *ended).time_to_restore == Times(1, 5.0, 5.0)


def test_a_window_takes_what_ended_in_it_and_lead_times_reach_back() -> None:
    lines = [apply(100, v1="a"), live(110, "1", "a"), apply(200, v2="b"), live(310, "2", "b")]
    assert figures(*lines, since=300, until=400).lead_time == Times(1, 110.0, 110.0)
    assert figures(*lines, since=0, until=300).deployments == 1


def test_models_are_counted_apart_and_together() -> None:
    events = record(apply(1, v1="a"), live(2, "1", "a")) + record(apply(3, v1="a"), live(6, "1", "a"), model="echo")
    total, models = count(events, 0, 10)
    assert (total.deployments, total.lead_time.median_s) == (2, 2.0)
    assert {name: k.lead_time.median_s for name, k in models.items()} == {"echo": 3.0, "mlp": 1.0}


def test_samples_for_the_metrics_page() -> None:
    store = FakeStore()
    for e in record(apply(1, v1="a"), live(3, "1", "a")):
        store.record([e.event], e.at)
    assert samples(store, 10.0) == [
        ["serving_events", "gauge", {}, 2],
        ["serving_deployments_30d", "gauge", {"model": "mlp"}, 1],
        ["serving_change_failure_ratio_30d", "gauge", {"model": "mlp"}, 0.0],
        ["serving_lead_time_median_seconds_30d", "gauge", {"model": "mlp"}, 2.0],
    ]
