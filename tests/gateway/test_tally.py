from __future__ import annotations

from time import monotonic, time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Code
from serving.gateway.tally import DURATION_BOUNDS, Cell, Tally
from serving.inference import InferResponse, Layout, TensorLayout
from serving.tensor import DType

ASKED = Layout((TensorLayout.fixed("x", DType.FP32, (4, 64)),), rows=4)


def answer(code: Code = Code.OK, queue_us: int = 0, compute_us: int = 0, rows: int = 0) -> InferResponse:
    return InferResponse("mlp", "1", None, b"12345", code, "", queue_us, compute_us, rows)


def by_name(tally: Tally) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    for sample in tally.samples():
        found.setdefault(sample[0], []).append(sample)
    return found


def test_samples_tell_outcomes_sums_and_flights_by_version_and_protocol() -> None:
    tally = Tally()
    version = tally.version("mlp", "1")
    cell = version["rest"]
    cell.started += 5
    cell.count(answer(queue_us=2000, compute_us=500, rows=8), ASKED, 0.004, 1.0)
    cell.count(answer(queue_us=1000, compute_us=500, rows=8), ASKED, 0.003, 1.0)
    cell.count(answer(queue_us=0, compute_us=100, rows=4), ASKED, 0.003, 2.0)
    cell.count(answer(Code.QUEUE_FULL), ASKED, 0.001, 1.5)
    version.reject("overload")
    found = by_name(tally)
    labels = {"model": "mlp", "version": "1", "protocol": "rest"}
    ok, full = {**labels, "outcome": "ok"}, {**labels, "outcome": "queue_full"}
    assert [s[1:] for s in found["serving_requests_total"]] == [["counter", ok, 3], ["counter", full, 1]]
    assert [s[2] for s in found["serving_request_duration_seconds"]] == [ok, full]
    for name, value in {
        "serving_queue_seconds_total": 0.003,
        "serving_compute_seconds_total": 0.0011,
        "serving_rows_total": 12,
    }.items():
        assert found[name] == [[name, "counter", labels, value]]
    assert found["batches"] == [["batches", "table", labels, {"8": [8, 4000], "4": [4, 400]}]]
    version_labels = {"model": "mlp", "version": "1"}
    assert found["serving_inflight_requests"] == [["serving_inflight_requests", "gauge", version_labels, 1]]
    rejected = [["serving_rejected_total", "counter", {**version_labels, "reason": "overload"}, 1]]
    assert found["serving_rejected_total"] == rejected
    histogram = found["serving_request_duration_seconds"][0][3]
    assert sum(histogram["counts"]) == 3
    assert len(histogram["counts"]) == len(histogram["bounds"]) + 1
    assert histogram["sum"] == 0.01


def test_the_time_of_the_last_answer_is_told_in_seconds_since_1970() -> None:
    tally = Tally()
    cell = tally.version("mlp", "1")["rest"]
    assert "serving_last_answer_timestamp_seconds" not in by_name(tally)
    cell.count(answer(rows=1), ASKED, 0.001, monotonic() - 100)
    ((_, kind, _, seconds),) = by_name(tally)["serving_last_answer_timestamp_seconds"]
    assert kind == "latest"
    assert time() - 200 < seconds < time() - 99


def test_a_cancelled_call_is_an_outcome_and_has_no_duration() -> None:
    cell = Cell()
    cell.started += 1
    cell.cancelled()
    assert cell.inflight == 0
    assert cell.cancels == 1
    assert not any(cell.durations)


def test_a_version_keeps_its_counts_when_asked_for_again() -> None:
    tally = Tally()
    tally.version("mlp", "1")["grpc"].started += 1
    assert tally.version("mlp", "1")["grpc"].started == 1
    assert tally.version("mlp", "2")["grpc"].started == 0


@given(st.floats(0, 1000))
def test_a_duration_falls_into_the_bucket_that_ends_at_or_above_it(seconds: float) -> None:
    cell = Cell()
    cell.count(answer(), ASKED, seconds, 1.0)
    at = cell.durations.index(1)
    assert at == len(DURATION_BOUNDS) or seconds <= DURATION_BOUNDS[at]
    assert at == 0 or seconds > DURATION_BOUNDS[at - 1]


def test_bounds_reach_from_microseconds_to_minutes_and_rise() -> None:
    assert DURATION_BOUNDS[0] == 16e-6
    assert 120 < DURATION_BOUNDS[-1] < 140
    assert list(DURATION_BOUNDS) == sorted(set(DURATION_BOUNDS))
