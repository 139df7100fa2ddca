from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.figures import Server
from serving.bench.metric import METRICS
from serving.bench.result import Result
from tests.bench.samples import LOAD, NOON, TARGET, recording, result, runs, second_of

SCHEMA = Path(__file__).parents[2] / "benchmarks" / "results" / "result.schema.json"


def test_the_top_level_has_what_scripts_read() -> None:
    document = json.loads(result([recording({"a": [1.0] * 98 + [10.0, 20.0]}, errors={"timeout": 3})], slo_ms=15.0).text())
    assert document["schema_version"] == 1
    assert document["throughput_rps"] == 25.0
    assert document["goodput_rps"] == 24.75
    assert document["errors"] == 3
    assert document["errors_by_kind"] == {"timeout": {"count": 3, "texts": ["first timeout"]}}
    latency = document["latency_ms"]
    assert list(latency) == ["p50", "p90", "p95", "p99", "p999", "p9999", "max", "mean", "min"]
    assert (latency["min"], latency["max"], latency["p999"], latency["mean"]) == (1.0, 20.0, 20.0, 1.28)
    assert latency["p50"] == pytest.approx(1.0, rel=0.001)
    assert latency["p99"] == pytest.approx(10.0, rel=0.001)


def test_throughput_counts_what_came_in_the_time() -> None:
    late = recording({"a": [1.0] * 100})
    late.answered = 60
    made = result([late], slo_ms=50.0)
    assert (made.answers, made.throughput_rps, made.goodput_rps) == (100, 15.0, 15.0)


def test_requests_are_told_apart_by_name() -> None:
    made = result([recording({"small": [1.0] * 40, "large": [9.0] * 20}), recording({"small": [3.0] * 40})])
    assert {name: (figures.answers, figures.latency_ms.max) for name, figures in made.requests.items()} == {
        "small": (80, 3.0),
        "large": (20, 9.0),
    }
    assert made.answers == 100
    assert made.latency().count == 100


def test_repetitions_have_an_interval_and_one_run_has_none() -> None:
    made = runs([100, 110, 120])
    assert [one.throughput_rps for one in made.repetitions] == [100, 110, 120]
    assert made.intervals["throughput"].mean == 110
    # Student's t for 2 degrees of freedom: 4.303 · 10 / √3
    assert made.intervals["throughput"].high == pytest.approx(110 + 24.843, abs=0.01)
    assert not runs([100]).intervals


def test_seconds_say_which_repetition_they_belong_to() -> None:
    one = recording({"a": []}, wall_s=2.0)
    one.timeline = {0: second_of(1, 2, 3), 1: second_of()}
    made = result([one, one])
    assert [(second.repetition, second.at_s, second.answers, second.max_ms) for second in made.timeline] == [
        (0, 0, 3, 3.0), (0, 1, 0, None), (1, 0, 3, 3.0), (1, 1, 0, None),
    ]  # fmt: skip


def test_nothing_answered_is_null_and_not_zero() -> None:
    made = result([recording({"a": []}, errors={"connect": 7})], slo_ms=5.0)
    assert set(made.latency_ms.model_dump().values()) == {None}
    assert (made.throughput_rps, made.goodput_rps, made.error_share) == (0.0, 0.0, 1.0)
    assert made.client.cpu_s_per_1000 is None
    assert result([recording({"a": [1.0]})]).goodput_rps is None


def test_what_the_server_said_is_averaged_and_its_batches_add_up() -> None:
    servers = [
        Server(queue_ms=1.0, batch_sizes={"8": 2, "16": 1}, cpu_s_per_1000=0.2, rss_bytes=100),
        Server(queue_ms=3.0, batch_sizes={"8": 1, "1": 5}, cpu_s_per_1000=0.4, rss_bytes=300),
    ]
    made = result([recording({"a": [1.0]})] * 2, servers=servers).server
    assert (made.queue_ms, made.compute_ms, made.rss_bytes, made.pss_bytes) == (2.0, None, 300, None)
    assert made.batch_sizes == {"1": 5, "8": 3, "16": 1}
    assert made.cpu_s_per_1000 == pytest.approx(0.3)


def test_warnings_are_said_once() -> None:
    made = result([recording({"a": [1.0]}, warnings=["too slow"])] * 2, warnings=["swap is on", "too slow"])
    assert made.warnings == ["swap is on", "too slow"]
    assert result([recording({"a": [1.0]}, interrupted=True)]).warnings == ["ended before its time"]


@pytest.mark.parametrize(("busy", "saturated"), [(0.5, False), (0.95, True)])
def test_a_client_whose_busiest_process_needs_a_core_is_saturated(busy: float, saturated: bool) -> None:
    idle, found = recording({"a": [1.0]}), recording({"a": [1.0]}, client_busy=busy)
    assert result([idle, found]).client.saturated is saturated


@given(st.lists(st.lists(st.floats(0.001, 1e5), max_size=30), min_size=1, max_size=3))
def test_a_document_is_read_as_it_was_written(latencies: list[list[float]]) -> None:
    made = result([recording({"a": one}, errors={"refused": 2}) for one in latencies])
    assert Result.model_validate_json(made.text()) == made


def test_every_figure_can_be_read_from_a_result(tmp_path: Path) -> None:
    made = runs([100, 110], slo_ms=50.0)
    made.write(tmp_path / "a.json")
    read = Result.read(tmp_path / "a.json")
    found = {name: metric.of(read) for name, metric in METRICS.items()}
    assert {name for name, value in found.items() if value is None} == {"cpu", "memory", "queue", "compute"}
    assert METRICS["throughput"].text(found["throughput"]) == "105/s"
    assert METRICS["cpu"].text(found["cpu"]) == "-"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the document: Invalid JSON"),
        ('{"schema_version": 1}', "answers: Field required"),
        ('{"schema_version": 2}', "schema_version: Input should be 1"),
    ],
)
def test_other_documents_are_refused_with_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        Result.read(tmp_path / "x.json")
    assert str(tmp_path / "x.json") in str(caught.value)


def test_a_result_needs_a_recording() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Result.of([], started_at=NOON, load=LOAD, target=TARGET)


def test_the_load_in_words() -> None:
    assert LOAD.words == "16 at a time"
    assert LOAD.model_copy(update={"shape": "open", "rate_rps": 5000.0, "arrivals": "poisson"}).words == "5,000/s poisson"


def test_the_checked_in_schema_is_the_one_of_the_document() -> None:
    """Write it anew: serving bench result-schema > benchmarks/results/result.schema.json"""
    assert json.loads(SCHEMA.read_text()) == Result.json_schema()


def test_the_schema_takes_what_is_written_and_refuses_what_is_not() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    validator.check_schema(validator.schema)
    document = json.loads(runs([100, 110], slo_ms=5.0).text())
    assert not list(validator.iter_errors(document))
    assert list(validator.iter_errors(document | {"errors": "none"}))
    assert list(validator.iter_errors({key: value for key, value in document.items() if key != "throughput_rps"}))
