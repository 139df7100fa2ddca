from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.peers import bare_loop, httptools_echo
from benchmarks.process import Running
from benchmarks.workload import MLP

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@needs_wrk
def test_rest_counts_answers_latency_and_cpu(tmp_path: Path) -> None:
    server = httptools_echo.launch(tmp_path)
    try:
        found = load.rest(server, MLP.rest_body, MLP.path, MLP.rest_headers, 4, 1, tmp_path)
    finally:
        server.stop()
    assert found.requests > 100
    assert 0.9 < found.seconds < 3
    assert 0 < found.p50_ms <= found.p99_ms
    assert 0 < found.cpu_s_per_1000 * found.requests / 1000 < found.seconds * 1.5
    assert found.to_json()["per_s"] == pytest.approx(found.requests / found.seconds, abs=0.01)


@needs_wrk
def test_rest_without_a_server_fails(tmp_path: Path) -> None:
    nobody = Running("nobody", 0, "", "127.0.0.1:9", "")
    with pytest.raises(load.LoadFailed):
        load.rest(nobody, b"", "/", {}, 1, 1, tmp_path)


def test_percentiles_read_h2load_logs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"1700000000000000\t200\t{micros}\n" for micros in range(100, 0, -1)))
    assert load._percentiles(log) == (0.051, 0.1)


def test_unmeasured_values_are_left_out() -> None:
    assert load.Measured(10, 2.0, 0.0, 0.0, 0.5, 0.0).to_json() == {
        "requests": 10, "seconds": 2.0, "cpu_s_per_1000": 0.5, "other_cores": 0.0, "per_s": 5.0,
    }  # fmt: skip


def test_bare_loops_run_together() -> None:
    assert bare_loop.images_per_s("mlp", 8, 2, 0.2) > 1000
