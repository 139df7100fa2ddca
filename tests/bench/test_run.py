"""Whole runs by the raw driver: our own engine over REST and gRPC, and a fake server for what ours does not tell yet."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bench.arrivals import Bursty, Constant, Poisson, Ramp, Recorded, Step
from serving.bench.dial import Tls
from serving.bench.load import Closed, Load, Open
from serving.bench.prepare import connect, prepare
from serving.bench.recording import Progress
from serving.bench.run import NO_STATISTICS, Bench, interrupts, load_facts, run
from serving.bench.scenario import Asked, Driver, Scenario
from serving.bench.target import Wire
from serving.errors import InvalidArgument, NotFound, ServingError, Unavailable
from tests.data_path.rig import DataPath

from .fake_v2 import FakeV2, fake_certificate

both_protocols = pytest.mark.parametrize("protocol", ["rest", "grpc"])


def few(requests: int, **more: Any) -> Load:
    return Load(Closed(2), duration_s=0, max_requests=requests, **{"check_share": 1.0, **more})


def scenario(server: FakeV2 | DataPath, protocol: Wire, *asked: Asked, load: Load, **more: Any) -> Scenario:
    return Scenario(server.rest if protocol == "rest" else server.grpc, asked, load, protocol=protocol, **more)


def nothing(progress: Progress) -> None:
    pass


@both_protocols
def test_our_engine_is_measured(engine: DataPath, protocol: Wire) -> None:
    asked = (Asked("pair", weight=3), Asked("pair", "2", batch_size=4), Asked("echo_bytes", shapes={"x": (5,)}))
    result = run(scenario(engine, protocol, *asked, load=few(200), slo_ms=60_000, name="a test"), command=["serving", "bench"])
    assert (result.answers, result.errors) == (200, 0), result.errors_by_kind
    assert set(result.requests) == {"pair", "pair/2 x4", "echo_bytes"}
    assert result.requests["pair"].answers > result.requests["pair/2 x4"].answers
    assert result.goodput_rps == pytest.approx(result.throughput_rps, rel=0.02)
    assert (result.name, result.target.protocol, result.target.driver, result.target.server) == ("a test", protocol, "raw", "serving 0.1.0")
    assert result.target.model == "pair, echo_bytes"
    assert set(result.target.metadata) == {"pair", "echo_bytes"}
    assert NO_STATISTICS not in result.warnings
    parts = (result.server.queue_ms, result.server.compute_ms, result.server.network_ms)
    assert all(part is not None and part >= 0 for part in parts)
    assert sum(result.server.batch_sizes.values()) > 0
    assert (result.load.shape, result.load.concurrency, result.load.max_requests) == ("closed", 2, 200)
    assert result.machine.cores >= 1
    assert "serving" in result.versions
    assert result.command == ["serving", "bench"]
    assert json.loads(result.text())["latency_ms"]["p50"] > 0


@both_protocols
def test_an_open_loop_and_several_processes(engine: DataPath, protocol: Wire) -> None:
    load = Load(Open(Constant(100)), duration_s=0.5, processes=2, check_share=1.0)
    result = run(scenario(engine, protocol, Asked("pair"), load=load))
    assert (result.answers, result.errors) == (50, 0), result.errors_by_kind
    assert result.client.processes == 2
    assert (result.load.shape, result.load.arrivals, result.load.rate_rps) == ("open", "constant", 100)


def test_json_goes_over_rest_as_well(engine: DataPath) -> None:
    asked = (
        Asked("pair", encoding="json"),
        Asked("echo_bytes", shapes={"x": (2,)}, encoding="json"),
        Asked("echo_bool", shapes={"x": (3,)}),
    )
    result = run(scenario(engine, "rest", *asked, load=few(60)))
    assert (result.answers, result.errors) == (60, 0), result.errors_by_kind


def test_a_server_without_binary_tensors_gets_json() -> None:
    with FakeV2(json_only=True) as server:
        result = run(scenario(server, "rest", Asked("double"), load=few(10)))
        assert (result.answers, result.errors) == (10, 0), result.errors_by_kind
        assert any("they travel as JSON (--encoding binary insists)" in warning for warning in result.warnings)
        with pytest.raises(ServingError, match="no such format"):
            run(scenario(server, "rest", Asked("double", encoding="binary"), load=few(10)))
        over_grpc = run(scenario(server, "grpc", Asked("double"), load=few(10)))
        assert (over_grpc.answers, over_grpc.errors) == (10, 0)
        assert not any("JSON" in warning for warning in over_grpc.warnings)


@both_protocols
def test_answers_are_compared_with_a_file(engine: DataPath, protocol: Wire, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-50, 50, (7, 16), dtype=np.int32) for _ in range(2))
    np.savez(tmp_path / "in.npz", a=a, b=b)
    np.savez(tmp_path / "out.npz", sum=a + b)
    asked = Asked("pair", input=tmp_path / "in.npz", expect=tmp_path / "out.npz", batch_size=2)
    right = run(scenario(engine, protocol, asked, load=few(30)))
    of_the_file = [warning for warning in right.warnings if "the machine was" not in warning]
    assert (right.answers, right.errors, of_the_file) == (30, 0, [])
    np.savez(tmp_path / "out.npz", sum=a + b + (np.arange(7) == 3)[:, None])
    wrong = run(scenario(engine, protocol, asked, load=few(30)))
    assert set(wrong.errors_by_kind) == {"wrong body"}
    assert wrong.errors_by_kind["wrong body"].texts[0].startswith("output 'sum': 16 of 32 values differ, the first at [1, 0]")
    assert 0 < wrong.errors < 30


def test_what_is_expected_belongs_to_the_rows(fake: FakeV2, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 4), np.float32))
    np.save(tmp_path / "y.npy", np.ones((2, 4), np.float32))
    asked = Asked("double", input=tmp_path / "x.npy", expect=tmp_path / "y.npy")
    with pytest.raises(InvalidArgument, match=r"y\.npy holds the outputs of 2 requests, and there are 4"):
        run(scenario(fake, "rest", asked, load=few(4)))
    np.save(tmp_path / "y.npy", np.ones((4, 3), np.float32))
    with pytest.raises(InvalidArgument, match=r"expected outputs: 'y': a row of the file has the shape \[3\]"):
        run(scenario(fake, "rest", asked, load=few(4)))


def test_a_first_answer_that_is_wrong_is_told_before_the_load(fake: FakeV2, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    np.save(tmp_path / "y.npy", np.full((1, 4), 2, np.float32))
    asked = Asked("wrong", input=tmp_path / "x.npy", expect=tmp_path / "y.npy")
    target = connect(scenario(fake, "rest", load=few(1)).address())
    prepared = prepare(scenario(fake, "rest", asked, load=few(1)), target)
    assert prepared.warnings == [
        "the first answer of model 'wrong' is not as expected: output 'y': 4 of 4 values differ, the first at [0, 0]: 3.0, expected 2.0"
    ]
    target.close()


def test_a_model_that_answers_otherwise_than_it_says_is_measured_all_the_same(fake: FakeV2) -> None:
    fake.models["double"].says = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 5]}]}
    result = run(scenario(fake, "rest", Asked("double"), load=few(6)))
    assert (result.answers, result.errors) == (6, 0)
    assert any("does not answer as its metadata says (output 'y' has the shape [1, 4]" in warning for warning in result.warnings)


def test_whole_requests_serve_models_that_say_nothing_of_themselves(fake: FakeV2, tmp_path: Path) -> None:
    fake.models["double"].says = {"inputs": [], "outputs": []}
    with pytest.raises(InvalidArgument, match="does not say what model 'double' takes; give whole requests by --input"):
        run(scenario(fake, "rest", Asked("double"), load=few(6)))
    (tmp_path / "x.json").write_text('{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}')
    result = run(scenario(fake, "rest", Asked("double", input=tmp_path / "x.json"), load=few(6)))
    assert (result.answers, result.errors) == (6, 0), result.errors_by_kind


@both_protocols
def test_statistics_split_the_latency(fake: FakeV2, protocol: Wire) -> None:
    fake.models["double"].pauses = [0.02] * 400  # at least the 10 ms that its statistics speak of
    load = Load(Closed(2), duration_s=1.0, warm_up_s=0.2)
    result = run(scenario(fake, protocol, Asked("double", batch_size=4), load=load))
    server = result.server
    assert server.queue_ms == pytest.approx(3.0)
    assert server.compute_ms == pytest.approx(7.0)
    assert result.latency_ms.mean is not None
    assert server.network_ms == pytest.approx(result.latency_ms.mean - 10.0, abs=1.0)
    assert set(server.batch_sizes) == {"4"}
    assert NO_STATISTICS not in result.warnings
    assert server.rss_bytes is not None  # it is a process of this machine: our own
    assert server.rss_bytes > 0


def test_repetitions_give_intervals(fake: FakeV2) -> None:
    result = run(scenario(fake, "rest", Asked("double"), load=few(20), repetitions=3))
    assert len(result.repetitions) == 3
    assert result.answers == 60
    assert result.intervals["throughput"].low <= result.intervals["throughput"].mean


def test_windows_run_until_they_agree_and_only_the_first_warms_up(fake: FakeV2) -> None:
    load = Load(Open(Recorded(tuple(i * 0.02 for i in range(1000)))), duration_s=0.4, warm_up_s=0.4, connections=2)
    bench = Bench.open(scenario(fake, "rest", Asked("double"), load=load))
    phases: list[str] = []
    try:
        runs, stability = bench.steady(load, lambda p: phases.append(p.phase), percent=50, within=1.0, at_most=12)
    finally:
        bench.close()
    assert stability.stable
    assert 3 <= len(runs) <= 12
    # what could not be sent in its window, on a machine that is slow for a moment, has failed and is counted all the same
    assert {one.recording.answers + one.recording.failed for one in runs} == {20}
    assert "warming up" not in phases[phases.index("draining") :]
    result = bench.result(runs, load, datetime.now(UTC), stability=stability)
    assert result.stability == stability


def test_stop_ends_the_repetition_under_way_and_the_series(fake: FakeV2) -> None:
    stop = threading.Event()

    def told(progress: Progress) -> None:
        if progress.answers:
            stop.set()

    result = run(scenario(fake, "rest", Asked("double"), load=Load(Closed(1), duration_s=600), repetitions=5), told, stop)
    assert len(result.repetitions) == 1
    assert result.answers > 0
    assert "ended before its time" in result.warnings


@pytest.mark.parametrize("driver", ["raw", "triton", "triton-aio"])
def test_stop_in_the_warm_up_leaves_an_empty_report(fake: FakeV2, driver: Driver) -> None:
    stop = threading.Event()

    def told(progress: Progress) -> None:
        if progress.phase == "warming up":
            stop.set()

    load = Load(Closed(1), duration_s=600, warm_up_s=600)
    result = run(scenario(fake, "rest", Asked("double"), load=load, driver=driver), told, stop)
    assert (result.answers, result.errors, result.throughput_rps, result.latency_ms.p50) == (0, 0, 0.0, None)
    assert "ended before its time" in result.warnings
    assert result.text()


def test_a_server_that_goes_away_leaves_a_report() -> None:
    stop = threading.Event()
    with FakeV2() as leaving:

        def told(progress: Progress) -> None:
            if progress.errors:
                stop.set()
            elif progress.answers:
                leaving.stop()

        result = run(scenario(leaving, "rest", Asked("double"), load=Load(Closed(2), duration_s=60, timeout_s=1)), told, stop)
    assert result.answers > 0
    assert result.errors > 0
    assert result.server.queue_ms is None


@both_protocols
def test_tls_and_headers_reach_the_server(protocol: Wire, tmp_path: Path) -> None:
    with FakeV2(fake_certificate(tmp_path)) as secure:
        url = f"https://{secure.rest}" if protocol == "rest" else f"grpcs://{secure.grpc}"
        tls = Tls(str(tmp_path / "ca.pem"))
        result = run(Scenario(url, (Asked("double"),), few(6), tls=tls, headers=(("x-who", "me"),)))
        assert (result.answers, result.errors) == (6, 0), result.errors_by_kind
        assert secure.headers["x-who"] == "me"


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (Asked("duoble"), NotFound, "did you mean 'double'"),
        (Asked("any"), InvalidArgument, "--shape x:8"),
        (Asked("any", shapes={"y": (3,)}), InvalidArgument, "has no input 'y'"),
        (Asked("double", batch_size=9), InvalidArgument, "takes up to 8 rows"),
    ],
)
@both_protocols
def test_what_cannot_be_measured_is_told_before_the_load(
    fake: FakeV2, protocol: Wire, asked: Asked, error: type[ServingError], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(scenario(fake, protocol, asked, load=few(1)))


@both_protocols
def test_a_request_that_the_server_refuses_is_told_in_its_words(engine: DataPath, protocol: Wire, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"x": [[-1, 2, 3]]}')
    with pytest.raises(ServingError, match=r"the server answered .*a row is marked"):
        run(scenario(engine, protocol, Asked("marked", input=tmp_path / "x.json"), load=few(1)))


def test_a_model_that_is_not_ready_is_told(fake: FakeV2) -> None:
    fake.models["double"].ready = False
    with pytest.raises(Unavailable, match="model 'double' is not ready"):
        run(scenario(fake, "rest", Asked("double"), load=few(1)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Closed(4), ("closed", 4, None, None)),
        (Open(Poisson(5)), ("open", None, 5.0, "poisson")),
        (Open(Bursty(5)), ("open", None, 5.0, "bursty")),
        (Open(Ramp(1, 9, 3)), ("open", None, 9.0, "ramp")),
        (Open(Step(((4, 2),))), ("open", None, 4.0, "step")),
        (Open(Recorded((0.0, 1.0))), ("open", None, 2.0, "recorded")),
    ],
)
def test_a_load_is_told_in_the_words_of_the_result(shape: Closed | Open, words: tuple[object, ...]) -> None:
    load = Load(shape, duration_s=3, warm_up_s=1, seed=5)
    facts = load_facts(load, Scenario("", (Asked("m", batch_size=4),), load))
    assert (facts.shape, facts.concurrency, facts.rate_rps, facts.arrivals) == words
    assert (facts.duration_s, facts.warm_up_s, facts.seed, facts.batch) == (3, 1, 5, 4)
    several = Scenario("", (Asked("m"), replace(Asked("m"), batch_size=4)), load)
    assert load_facts(load, several).batch is None


def test_outside_the_main_thread_no_signal_is_caught() -> None:
    entered = threading.Event()

    def enter() -> None:
        with interrupts(threading.Event()):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered.is_set()
