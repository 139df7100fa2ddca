"""tritonclient in threads and in a loop, over REST and gRPC, against our own engine and a fake one."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic_ns
from typing import get_args

import pytest

from serving.bench.arrivals import Constant, Recorded
from serving.bench.dial import Tls
from serving.bench.encode import Order, Work
from serving.bench.load import Closed, Load, Open
from serving.bench.recording import Progress
from serving.bench.result import Result
from serving.bench.run import PYTHON_DRIVERS, run
from serving.bench.scenario import Asked, Driver, Scenario
from serving.bench.target import ModelInfo, Wire
from serving.bench.turns import Turns
from serving.errors import InvalidArgument
from tests.data_path.rig import DataPath

from .fake_v2 import FakeV2, fake_certificate

DRIVERS = tuple(PYTHON_DRIVERS)
LEAVING = {"connection", "timeout", "not answered", "client"}
every_driver = pytest.mark.parametrize("driver", DRIVERS)
both_protocols = pytest.mark.parametrize("protocol", ["rest", "grpc"])


def scenario(server: FakeV2 | DataPath, protocol: Wire, driver: Driver, *asked: Asked, load: Load) -> Scenario:
    return Scenario(server.rest if protocol == "rest" else server.grpc, asked, load, protocol=protocol, driver=driver)


def few(requests: int, **more: object) -> Load:
    return Load(Closed(2), duration_s=0, max_requests=requests, check_share=1.0, **more)  # type: ignore[arg-type]


def test_every_driver_but_raw_is_known_by_its_name() -> None:
    assert set(PYTHON_DRIVERS) == set(get_args(Driver)) - {"raw"}


@every_driver
@both_protocols
def test_our_engine_is_measured_and_every_answer_is_checked(engine: DataPath, driver: Driver, protocol: Wire) -> None:
    asked = (Asked("pair", weight=3), Asked("echo_bytes", shapes={"x": (2,)}), Asked("echo_bf16", shapes={"x": (2,)}, batch_size=3))
    result = run(scenario(engine, protocol, driver, *asked, load=few(60)))
    assert (result.answers, result.errors) == (60, 0), result.errors_by_kind
    assert set(result.requests) == {"pair", "echo_bytes", "echo_bf16 x3"}
    assert result.requests["pair"].answers > result.requests["echo_bytes"].answers
    assert result.target.driver == driver
    assert result.latency_ms.p50 is not None


@every_driver
@both_protocols
def test_wrong_answers_are_found(fake: FakeV2, driver: Driver, protocol: Wire, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"x": [[1, 2, 3, 4]]}')
    (tmp_path / "y.json").write_text('{"y": [[2, 4, 6, 8]]}')
    files = {"input": tmp_path / "x.json", "expect": tmp_path / "y.json"}
    right = run(scenario(fake, protocol, driver, Asked("double", **files), load=few(4)))  # type: ignore[arg-type]
    assert (right.answers, right.errors) == (4, 0)
    wrong = run(scenario(fake, protocol, driver, Asked("wrong", **files), load=few(4)))  # type: ignore[arg-type]
    assert (wrong.answers, wrong.errors_by_kind["wrong body"].count) == (0, 4)
    assert "4 of 4 values differ" in wrong.errors_by_kind["wrong body"].texts[0]


@every_driver
@pytest.mark.parametrize(("protocol", "kind"), [("rest", "http 5xx"), ("grpc", "grpc INTERNAL")])
def test_errors_have_the_kinds_of_the_raw_drivers(engine: DataPath, driver: Driver, protocol: Wire, kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"x": [[1, 2, 3], [-1, 2, 3]]}')  # the model `marked` refuses the second row
    result = run(scenario(engine, protocol, driver, Asked("marked", input=tmp_path / "x.json"), load=few(40)))
    assert set(result.errors_by_kind) == {kind}
    assert "a row is marked" in result.errors_by_kind[kind].texts[0]
    assert result.answers + result.errors == 40


@every_driver
def test_json_goes_over_rest(engine: DataPath, driver: Driver) -> None:
    result = run(scenario(engine, "rest", driver, Asked("pair", encoding="json"), load=few(6)))
    assert (result.answers, result.errors) == (6, 0)


@every_driver
@both_protocols
def test_a_server_that_goes_away_is_an_error_and_not_a_crash(driver: Driver, protocol: Wire) -> None:
    with FakeV2() as leaving:
        stop = threading.Event()

        def told(progress: Progress) -> None:
            if progress.errors:
                stop.set()
            elif progress.answers:
                leaving.stop()

        load = Load(Closed(2), duration_s=30, timeout_s=1, drain_s=0.5)
        result = run(scenario(leaving, protocol, driver, Asked("double"), load=load), told, stop)
    assert result.errors > 0
    assert all(kind.startswith("grpc ") or kind in LEAVING for kind in result.errors_by_kind), result.errors_by_kind


@every_driver
def test_an_open_loop_sends_what_is_due(fake: FakeV2, driver: Driver) -> None:
    load = Load(Open(Recorded(tuple(i * 0.005 for i in range(40)))), duration_s=5, connections=4)
    result = run(scenario(fake, "rest", driver, Asked("double"), load=load))
    assert (result.answers, result.errors) == (40, 0)
    assert result.client.lateness_ms.p50 is not None
    assert result.load.arrivals == "recorded"


def test_a_run_of_a_number_of_requests_ends_with_the_last_answer_and_not_when_somebody_looks() -> None:
    info = ModelInfo("m", "", (), "", (), ())
    turns = Turns(
        Load(Closed(1), duration_s=0, max_requests=1), [Work(Order(info, "m"), (), (), 1.0)], lambda progress: None, threading.Event()
    )
    before = monotonic_ns()
    turns.begin()
    turn = turns.turn()
    assert turn is not None
    turns.note(turn, turn.intended_ns)
    after = monotonic_ns()
    threading.Event().wait(0.01)
    assert turns.turn() is None
    assert turns.tick(done=True)
    recording = turns.recording()
    assert 0 < recording.wall_s <= (after - before) / 1e9
    assert (recording.answers, recording.answered) == (1, 1)


@every_driver
def test_the_warm_up_does_not_count(fake: FakeV2, driver: Driver) -> None:
    load = Load(Open(Recorded(tuple(i * 0.01 for i in range(60)))), duration_s=3, warm_up_s=0.3, connections=4)
    result = run(scenario(fake, "grpc", driver, Asked("double"), load=load))
    assert result.answers + result.errors == 30


@every_driver
def test_stop_ends_a_run_that_waits_for_its_next_request(fake: FakeV2, driver: Driver) -> None:
    stop = threading.Event()

    def told(progress: Progress) -> None:
        if progress.answers:
            stop.set()

    load = Load(Open(Recorded((0.0, 3600.0))), duration_s=7200)
    result = run(scenario(fake, "rest", driver, Asked("double"), load=load), told, stop)
    assert (result.answers, result.errors) == (1, 0)
    assert "ended before its time" in result.warnings


@every_driver
@both_protocols
def test_tls_and_headers_reach_the_server(driver: Driver, protocol: Wire, tmp_path: Path) -> None:
    with FakeV2(fake_certificate(tmp_path)) as secure:
        url = f"https://{secure.rest}" if protocol == "rest" else f"grpcs://{secure.grpc}"
        tls = Tls(str(tmp_path / "ca.pem"))
        result = run(Scenario(url, (Asked("double"),), few(4), driver=driver, tls=tls, headers=(("x-who", "me"),)))
        assert (result.answers, result.errors) == (4, 0)
        assert secure.headers["x-who"] == "me"


def test_only_the_raw_driver_has_processes(fake: FakeV2) -> None:
    with pytest.raises(InvalidArgument, match="only the driver raw sends from several processes"):
        run(scenario(fake, "rest", "triton", Asked("double"), load=few(4, processes=2)))


def test_progress_tells_all_phases(fake: FakeV2) -> None:
    seen: list[Progress] = []
    load = Load(Open(Constant(50)), duration_s=0.6, warm_up_s=0.6, connections=2)
    result: Result = run(scenario(fake, "rest", "triton-aio", Asked("double"), load=load), seen.append)
    assert [phase for phase in ("warming up", "measuring") if phase in {p.phase for p in seen}] == ["warming up", "measuring"]
    assert seen[-1].answers == result.answers
    assert all(p.answers == 0 for p in seen if p.phase == "warming up")
