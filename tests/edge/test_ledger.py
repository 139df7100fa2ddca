"""Counts of all processes add, never fall, and come out in the form that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.edge.ledger import Ledger, families


def counter(value: float, **labels: str) -> list[Any]:
    return ["serving_requests_total", "counter", labels, value]


def page(ledger: Ledger) -> str:
    class Found(Collector):
        def collect(self) -> Iterator[Metric]:
            return families(ledger.totals())

    return generate_latest(Found()).decode()


def values(ledger: Ledger) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(page(ledger))
    return {(s.name, ",".join(f"{k}={v}" for k, v in s.labels.items())): s.value for f in families for s in f.samples}


def test_samples_with_the_same_labels_add() -> None:
    ledger = Ledger()
    ledger.record("1", [counter(3, model="m", code="OK"), counter(1, model="m", code="INTERNAL")])
    ledger.record("2", [counter(4, code="OK", model="m")])
    assert values(ledger) == {
        ("serving_requests_total", "code=OK,model=m"): 7,
        ("serving_requests_total", "code=INTERNAL,model=m"): 1,
    }


def test_histograms_become_cumulative_buckets() -> None:
    ledger = Ledger()
    for connection in "12":
        ledger.record(
            connection, [["wait_s", "histogram", {"model": "m"}, {"bounds": [0.005, 0.1, 1.0], "counts": [1, 2, 3, 4], "sum": 9.5}]]
        )
    assert page(ledger).splitlines()[1:] == [
        "# TYPE wait_s histogram",
        'wait_s_bucket{le="0.005",model="m"} 2.0',
        'wait_s_bucket{le="0.1",model="m"} 6.0',
        'wait_s_bucket{le="1.0",model="m"} 12.0',
        'wait_s_bucket{le="+Inf",model="m"} 20.0',
        'wait_s_count{model="m"} 20.0',
        'wait_s_sum{model="m"} 19.0',
    ]


def test_a_process_that_left_keeps_its_counters_and_loses_its_gauges() -> None:
    ledger = Ledger()
    ledger.record("1", [counter(3), ["in_flight", "gauge", {}, 5]])
    ledger.record("2", [counter(1), ["in_flight", "gauge", {}, 2]])
    ledger.leave("1")
    assert values(ledger) == {("serving_requests_total", ""): 4, ("in_flight", ""): 2}


def test_a_process_that_connects_again_is_not_counted_twice() -> None:
    ledger = Ledger()
    ledger.identify("1", "gateway-a/77")
    ledger.record("1", [counter(3)])
    ledger.leave("1")
    ledger.identify("2", "gateway-a/77")
    ledger.record("2", [counter(5)])
    assert values(ledger) == {("serving_requests_total", ""): 5}


def test_text_in_labels_is_escaped() -> None:
    ledger = Ledger()
    ledger.record("1", [counter(1, model='a"b\nc\\d')])
    assert r'model="a\"b\nc\\d"' in page(ledger)


@pytest.mark.parametrize(
    "sample",
    [
        ["a", "counter", {}],
        ["a", "counter", {}, "many"],
        ["a", "counter", [], 1],
        ["a", "summary", {}, 1],
        ["a b", "counter", {}, 1],
        ["a", "counter", {"x y": "1"}, 1],
        ["a", "histogram", {}, 1],
        ["a", "histogram", {}, {"bounds": [1], "counts": [1], "sum": 0}],
        ["a", "histogram", {}, {"bounds": [2, 1], "counts": [1, 1, 1], "sum": 0}],
        None,
        7,
    ],
)
def test_what_is_no_sample_is_refused_and_the_last_report_stays(sample: Any) -> None:
    ledger = Ledger()
    ledger.record("1", [counter(2)])
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        ledger.record("1", [counter(9), sample])
    assert values(ledger) == {("serving_requests_total", ""): 2}


def test_histograms_with_other_bounds_do_not_mix() -> None:
    ledger = Ledger()
    ledger.record("1", [["h", "histogram", {}, {"bounds": [1.0], "counts": [5, 5], "sum": 1}]])
    ledger.record("2", [["h", "histogram", {}, {"bounds": [2.0], "counts": [1, 1], "sum": 1}]])
    assert values(ledger)[("h_count", "")] == 10


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 5), st.booleans()), max_size=300))
def test_no_counter_ever_falls(steps: list[tuple[str, int, bool]]) -> None:
    ledger, counts, expected, last, births = Ledger(), dict.fromkeys("abcde", 0), 0, 0.0, dict.fromkeys("abcde", 0)
    for name, more, leaves in steps:
        connection = f"{name}{births[name]}"
        counts[name] += more
        expected += more
        ledger.record(connection, [counter(counts[name], model="m")])
        if leaves:
            ledger.leave(connection)
            births[name] += 1
            counts[name] = 0
        total = next(iter(ledger.totals().values()))
        assert isinstance(total, float)
        assert total >= last
        assert total == expected
        last = total
