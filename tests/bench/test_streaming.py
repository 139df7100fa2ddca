"""Streams, on our own engine and on a fake one with a decoupled model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving.bench.arrivals import Recorded
from serving.bench.dial import Tls
from serving.bench.histogram import Histogram
from serving.bench.load import Closed, Load, Open
from serving.bench.recording import Progress
from serving.bench.run import run
from serving.bench.scenario import Asked, Scenario
from serving.bench.streaming import Gaps
from tests.data_path.rig import DataPath

from .fake_v2 import FakeV2, fake_certificate

LEAVING = {"connection", "timeout", "not answered"}


def few(requests: int) -> Load:
    return Load(Closed(2), duration_s=0, max_requests=requests, check_share=1.0)


def streams(url: str, *asked: Asked, load: Load) -> Scenario:
    return Scenario(url, asked, load, streaming=True)


def test_our_engine_answers_once_for_each_request(engine: DataPath) -> None:
    result = run(streams(engine.grpc, Asked("pair"), Asked("echo_bytes", shapes={"x": (3,)}), load=few(60)))
    assert (result.answers, result.errors) == (60, 0), result.errors_by_kind
    assert result.streaming is not None
    assert result.streaming.answers_per_request == 1.0
    assert result.streaming.first_ms.p50 is not None
    assert result.streaming.between_ms.p50 is None
    assert result.target.driver == "stream"
    assert result.client.connections == 2


def test_a_decoupled_model_gives_many_answers_and_an_empty_last_one(fake: FakeV2) -> None:
    result = run(streams(fake.grpc, Asked("parts"), load=few(20)))
    assert (result.answers, result.errors) == (20, 0), result.errors_by_kind
    stream = result.streaming
    assert stream is not None
    assert stream.answers_per_request == 3.0
    assert stream.first_ms.p50 is not None
    assert stream.between_ms.p50 is not None
    assert result.latency_ms.max is not None
    assert stream.first_ms.max is not None
    assert stream.first_ms.max <= result.latency_ms.max * 1.001


def test_an_error_in_the_stream_leaves_it_open(fake: FakeV2, tmp_path: Path) -> None:
    good, bad = Asked("double", name="good"), Asked("double", name="bad", batch_size=7)  # the server does not take seven rows
    result = run(streams(fake.grpc, good, bad, load=few(40)))
    assert result.answers + result.errors == 40
    assert result.requests["good"].errors == 0
    assert result.requests["bad"].errors_by_kind["error in the stream"].texts == ["seven rows are too many"]
    assert result.requests["bad"].answers == 0
    assert fake.streams == 2


def test_wrong_answers_are_found(fake: FakeV2, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"x": [[1, 2, 3, 4]]}')
    (tmp_path / "y.json").write_text('{"y": [[2, 4, 6, 8]]}')
    asked = Asked("wrong", input=tmp_path / "x.json", expect=tmp_path / "y.json")
    result = run(streams(fake.grpc, asked, load=few(4)))
    assert (result.answers, result.errors_by_kind["wrong body"].count) == (0, 4)


def test_a_server_that_goes_away_is_an_error_and_not_a_crash() -> None:
    stop = threading.Event()
    with FakeV2() as leaving:

        def told(progress: Progress) -> None:
            if progress.errors:
                stop.set()
            elif progress.answers:
                leaving.stop()

        result = run(streams(leaving.grpc, Asked("double"), load=Load(Closed(2), duration_s=30, timeout_s=1, drain_s=0.5)), told, stop)
    assert result.errors > 0
    assert all(kind.startswith("grpc ") or kind in LEAVING for kind in result.errors_by_kind), result.errors_by_kind


def test_a_request_that_times_out_does_not_spoil_the_next(fake: FakeV2) -> None:
    fake.models["double"].pauses = [2.5]
    load = Load(Closed(1), duration_s=0, max_requests=6, timeout_s=2.0, check_share=1.0)
    result = run(streams(fake.grpc, Asked("double"), load=load))
    assert (result.answers, result.errors) == (5, 1)
    assert set(result.errors_by_kind) == {"timeout"}


def test_an_open_loop_counts_from_the_intended_start(fake: FakeV2) -> None:
    fake.models["double"].pauses = [0.3]
    load = Load(Open(Recorded((0.0, 0.01, 0.02))), duration_s=5, connections=1)
    result = run(streams(fake.grpc, Asked("double"), load=load))
    assert result.answers == 3
    assert result.latency_ms.min is not None
    assert result.latency_ms.min >= 250  # those behind the slow one waited too
    assert result.streaming is not None
    assert result.streaming.first_ms.min is not None
    assert result.streaming.first_ms.min >= 250


def test_tls_and_headers_reach_the_server(tmp_path: Path) -> None:
    with FakeV2(fake_certificate(tmp_path)) as secure:
        scenario = Scenario(
            f"grpcs://{secure.grpc}",
            (Asked("double"),),
            few(4),
            streaming=True,
            tls=Tls(str(tmp_path / "ca.pem")),
            headers=(("x-who", "me"),),
        )
        assert run(scenario).answers == 4
        assert secure.headers["x-who"] == "me"


@pytest.mark.parametrize("count", [0, 2])
def test_gaps_add_up(count: int) -> None:
    one = Gaps(Histogram.of([1_000_000] * count), Histogram.of([2_000_000] * count), 2 * count, count)
    both = (one + one).figures()
    assert both.answers_per_request == (2.0 if count else 0.0)
    assert both.first_ms.p50 == (pytest.approx(1.0, rel=0.01) if count else None)
