from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code
from serving.gateway.tally import DURATION_BOUNDS, Cell, Tally
from serving.inference import InferResponse


def answer(code: Code = Code.OK, queue_us: int = 0, compute_us: int = 0, rows: int = 0) -> InferResponse:
    return InferResponse("mlp", "1", None, b"", code, "", queue_us, compute_us, rows)


def by_name(tally: Tally) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    for sample in tally.samples():
        found.setdefault(sample[0], []).append(sample)
    return found


def test_samples_tell_outcomes_sums_and_flights_by_version_and_protocol() -> None:
    tally = Tally()
    version = tally.version("mlp", "1")
    cell = version["rest"]
    cell.started += 4
    cell.count(answer(queue_us=2000, compute_us=500, rows=8), 0.004)
    cell.count(answer(queue_us=1000, compute_us=500, rows=8), 0.003)
    cell.count(answer(Code.QUEUE_FULL), 0.001)
    version.reject("overload")
    found = by_name(tally)
    labels = {"model": "mlp", "version": "1", "protocol": "rest"}
    assert found["serving_requests_total"] == [
        ["serving_requests_total", "counter", {**labels, "outcome": "ok"}, 2],
        ["serving_requests_total", "counter", {**labels, "outcome": "queue_full"}, 1],
    ]
    assert found["serving_queue_seconds"] == [["serving_queue_seconds", "counter", labels, 0.003]]
    assert found["serving_compute_seconds"] == [["serving_compute_seconds", "counter", labels, 0.001]]
    assert found["serving_batch_rows"] == [["serving_batch_rows", "counter", labels, 16]]
    version_labels = {"model": "mlp", "version": "1"}
    assert found["serving_inflight_requests"] == [["serving_inflight_requests", "gauge", version_labels, 1]]
    rejected = [["serving_rejected_total", "counter", {**version_labels, "reason": "overload"}, 1]]
    assert found["serving_rejected_total"] == rejected
    ((_, kind, _, histogram),) = found["serving_request_duration_seconds"]
    assert kind == "histogram"
    assert sum(histogram["counts"]) == 3
    assert len(histogram["counts"]) == len(histogram["bounds"]) + 1
    assert abs(histogram["sum"] - 0.008) < 1e-12


def test_a_cancelled_call_is_an_outcome_and_has_no_duration() -> None:
    cell = Cell()
    cell.started += 1
    cell.cancelled()
    assert cell.inflight == 0
    assert cell.outcomes[Code.CANCELLED] == 1
    assert not any(cell.duration)


def test_a_version_keeps_its_counts_when_asked_for_again() -> None:
    tally = Tally()
    tally.version("mlp", "1")["grpc"].started += 1
    assert tally.version("mlp", "1")["grpc"].started == 1
    assert tally.version("mlp", "2")["grpc"].started == 0


@given(st.floats(0, 1000))
def test_a_duration_falls_into_the_bucket_that_ends_at_or_above_it(seconds: float) -> None:
    cell = Cell()
    cell.count(answer(), seconds)
    at = cell.duration.index(1)
    assert at == len(DURATION_BOUNDS) or seconds <= DURATION_BOUNDS[at]
    assert at == 0 or seconds > DURATION_BOUNDS[at - 1]


def test_bounds_reach_from_microseconds_to_minutes_and_rise() -> None:
    assert DURATION_BOUNDS[0] == 16e-6
    assert 120 < DURATION_BOUNDS[-1] < 140
    assert list(DURATION_BOUNDS) == sorted(set(DURATION_BOUNDS))
