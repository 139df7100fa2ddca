"""The generators of the overhead table: `serving bench`, wrk and h2load, and the bare loops."""

from __future__ import annotations

import base64
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks import cross_check, tester, wrk
from benchmarks.answer import Base64Answer, SameBody
from benchmarks.ask import LoadFailed, Measured
from benchmarks.cross_check import Agreement
from benchmarks.peers import bare_loop, fixed_latency, form, httptools_echo
from benchmarks.process import Running
from benchmarks.workload import MLP

needs_wrk = pytest.mark.skipif(bool(wrk.missing_tools()), reason="wrk or h2load is not installed")
ECHO = form.echo(MLP)
NOBODY = Running("nobody", 0, "", "127.0.0.1:9", "127.0.0.1:9")


def test_serving_bench_counts_answers_latency_and_cpu_of_both_sides(tmp_path: Path) -> None:
    server = httptools_echo.launch(tmp_path)
    try:
        once = tester.measure(server, ECHO, 4, 1)
    finally:
        server.stop()
    found = once.measured
    assert (found.requests > 100, found.errors) == (True, 0)
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.cpu_s_per_1000 > 0
    assert found.client_cpu_s_per_1000 > 0
    result = tester.result([once, once], ECHO, "an echo", "http://h:1", 4, 1, "a sitting")
    assert (len(result.repetitions), result.interleaved, result.load.concurrency) == (2, "a sitting", 4)
    assert result.server.cpu_s_per_1000 == pytest.approx(found.cpu_s_per_1000)
    assert result.target.server == "an echo"


def test_answers_are_checked_under_load(tmp_path: Path) -> None:
    server = httptools_echo.launch(tmp_path)
    try:
        with pytest.raises(LoadFailed, match="bytes, not the 3"):
            tester.measure(server, replace(ECHO, check=SameBody(b"abc")), 2, 0.3)
    finally:
        server.stop()


@needs_wrk
def test_wrk_counts_answers_latency_and_cpu(tmp_path: Path) -> None:
    server = httptools_echo.launch(tmp_path)
    try:
        found = wrk.measure(server, ECHO, 4, 1, tmp_path)
    finally:
        server.stop()
    assert found.requests > 100
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.cpu_s_per_1000 > 0
    assert found.client_cpu_s_per_1000 > 0
    assert found.to_json()["per_s"] == pytest.approx(found.requests / found.seconds, abs=0.01)


def test_without_a_server_a_load_fails(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed):
        tester.measure(NOBODY, ECHO, 1, 0.2)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_without_a_server_wrk_fails(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed):
        wrk.measure(NOBODY, ECHO, 1, 1, tmp_path)


@needs_wrk
def test_both_load_a_server_of_fixed_latency(tmp_path: Path) -> None:
    found = cross_check.measure(seconds=1, rounds=1)
    assert [one.protocol for one in found] == ["rest", "grpc"]
    assert all(min(one.bench_p50_ms, one.tool_p50_ms) >= cross_check.LATENCY_MS for one in found)


def test_the_server_of_fixed_latency_is_late(tmp_path: Path) -> None:
    server = fixed_latency.launch(tmp_path, 5)
    try:
        ask = replace(ECHO, check=SameBody(fixed_latency.ANSWER))
        ask.try_rest(server.http)
        assert tester.measure(server, ask, 2, 0.3).measured.p50_ms >= 5
    finally:
        server.stop()


def test_more_than_5_percent_apart_is_no_agreement() -> None:
    near, far = Agreement("rest", "wrk", 20.9, 20.0), Agreement("grpc", "h2load", 18.9, 20.0)
    assert cross_check.show([near])
    assert not cross_check.show([near, far])
    assert far.to_json()["apart"] == pytest.approx(0.055)


def test_percentiles_read_h2load_logs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"1700000000000000\t200\t{micros}\n" for micros in range(100, 0, -1)))
    assert wrk.percentiles(log) == (0.051, 0.1)


def test_unmeasured_values_are_left_out() -> None:
    assert Measured(10, 2.0, 0.0, 0.0, 0.5, 0.25, 0.0).to_json() == {
        "requests": 10, "seconds": 2.0, "cpu_s_per_1000": 0.5, "client_cpu_s_per_1000": 0.25, "other_cores": 0.0, "errors": 0, "per_s": 5.0,
    }  # fmt: skip


def test_base64_answers_are_compared_with_the_model() -> None:
    check = pickle.loads(pickle.dumps(Base64Answer(("y", 0), MLP.y)))

    def answer(values: np.ndarray) -> bytes:
        return orjson.dumps({"y": [base64.b64encode(values.tobytes()).decode()]})

    assert check(answer(MLP.y)) is None
    assert "answered" in check(answer(MLP.y + np.float32(0.01)))
    assert "cannot be read" in check(b'{"error": "no"}')


def test_bare_loops_run_together() -> None:
    assert bare_loop.images_per_s("mlp", 8, 2, 0.2) > 1000
