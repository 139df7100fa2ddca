"""What several gateways have counted of the same batches adds up to the batches that there were."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.edge.ledger import Ledger
from serving.edge.statistics import statistics
from serving.gateway.tally import Tally
from serving.inference import InferResponse, Layout
from serving.statistics import Batches, Sum, VersionStatistics

LAYOUTS = {rows: Layout((), rows=rows) for rows in range(1, 9)}
KEY = ("mlp", "1")


def count(tally: Tally, rows: int, batch_rows: int, compute_us: int = 100, queue_us: int = 10, protocol: str = "rest") -> None:
    cell = tally.version(*KEY)[protocol]
    cell.started += 1
    cell.count(InferResponse(*KEY, None, b"", queue_us=queue_us, compute_us=compute_us, batch_rows=batch_rows), LAYOUTS[rows], 0.001, 5.0)


def read(*tallies: Tally) -> VersionStatistics:
    ledger = Ledger()
    for number, tally in enumerate(tallies):
        ledger.record(str(number), tally.samples())
    return statistics(ledger.totals())[KEY]


def test_a_batch_that_two_gateways_share_counts_once() -> None:
    a, b = Tally(), Tally()
    for tally, rows in ((a, 1), (a, 2), (b, 1), (b, 4)):
        count(tally, rows, 8, compute_us=500)
    found = read(a, b)
    assert (found.executions, found.rows) == (1, 8)
    assert found.batches == (Batches(8, 1, 500_000),)
    assert found.success == Sum(4, 4_000_000)
    assert found.queue == Sum(4, 40_000)
    assert found.compute == Sum(4, 2_000_000)


def test_protocols_add_up_and_failures_are_told_apart() -> None:
    tally = Tally()
    count(tally, 1, 2)
    count(tally, 1, 2, protocol="grpc")
    cell = tally.version(*KEY)["grpc"]
    cell.count(InferResponse(*KEY, None, b"", code=14, queue_us=7), LAYOUTS[1], 0.002, 5.0)  # type: ignore[arg-type]
    cell.cancelled()
    tally.version(*KEY).reject("draining")
    found = read(tally)
    assert (found.success.times, found.fail, found.queue) == (2, Sum(3, 2_000_000), Sum(4, 27_000))
    assert found.executions == 1


def test_what_was_refused_only_is_there_with_zeros() -> None:
    tally = Tally()
    tally.version(*KEY).reject("not_ready")
    assert read(tally) == VersionStatistics(fail=Sum(1))


def test_the_last_answer_is_the_latest_of_all_gateways_and_outlives_its_own() -> None:
    ledger = Ledger()
    for name, seconds in (("a", 30.5), ("b", 20.25)):
        ledger.record(name, [["serving_last_answer_timestamp_seconds", "latest", {"model": "mlp", "version": "1"}, seconds]])
    assert statistics(ledger.totals())[KEY].last_ms == 30_500
    ledger.leave("a")
    assert statistics(ledger.totals())[KEY].last_ms == 30_500


REQUESTS = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 2)), min_size=1, max_size=6)
"""(rows, gateway) of the requests of a batch"""


@given(st.lists(st.tuples(REQUESTS, st.integers(1, 9999)), min_size=1, max_size=30))
def test_whole_batches_are_counted_right_whoever_sent_their_requests(batches: list[tuple[list[tuple[int, int]], int]]) -> None:
    tallies = [Tally(), Tally(), Tally()]
    for requests, compute_us in batches:
        size = sum(rows for rows, _ in requests)
        for rows, gateway in requests:
            count(tallies[gateway], rows, size, compute_us)
    found = read(*tallies)
    assert found.executions == len(batches)
    assert found.rows == sum(rows for requests, _ in batches for rows, _ in requests)
    assert found.success.times == found.queue.times == sum(len(requests) for requests, _ in batches)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 8), st.integers(0, 8), st.booleans()), max_size=60))
def test_nothing_ever_falls_when_gateways_die(steps: list[tuple[str, int, int, bool]]) -> None:
    ledger = Ledger()
    births = {"a": 0, "b": 0}
    tallies = {"a": Tally(), "b": Tally()}
    before: list[Any] = VersionStatistics().to_json()
    for name, rows, more, dies in steps:
        count(tallies[name], rows, rows + more)
        ledger.record(f"{name}{births[name]}", tallies[name].samples())
        if dies:
            ledger.leave(f"{name}{births[name]}")
            births[name] += 1
            tallies[name] = Tally()
        now = statistics(ledger.totals())[KEY].to_json()
        assert all(tuple(x) <= tuple(y) if isinstance(x, tuple) else x <= y for x, y in zip(before[:7], now[:7], strict=True))
        assert all(any(was <= b for b in now[7] if b[0] == was[0]) for was in before[7])
        before = now


def test_statistics_survive_the_way_between_processes() -> None:
    value = VersionStatistics(Sum(1, 2), Sum(3, 4), Sum(5, 6), Sum(7, 8), 9, 10, 11, (Batches(1, 2, 3),))
    assert VersionStatistics.from_json(value.to_json()) == value
