"""The whole engine, as people start it: `serving up` on a real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.peers.port import free_ports
from tests.cluster.running import Asking, RunningEngine, run, wait, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
REPLACED_S = 120.0
"""Bound for a loaded machine; on two free cores it takes 1 to 2 s."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RunningEngine]:
    """One engine for the tests of this file: `echo` answers, `bad` cannot be loaded, `big` cannot be placed."""
    files = [write_model(folder / "models", "echo", replicas=2), write_model(folder / "models", "bad", broken=True)]
    files.append(write_model(folder / "models", "big", resources={"gpus": 64}))
    with RunningEngine(folder / "state", *files) as running:
        yield running


def test_the_ready_line_names_the_ports_and_what_failed(engine: RunningEngine) -> None:
    line = engine.wait_ready()
    assert f"ready http://127.0.0.1:{engine.http} grpc://127.0.0.1:{engine.grpc}" in line
    assert "2 of 3 versions failed: bad/1, big/1" in line


def test_a_model_answers(engine: RunningEngine) -> None:
    answer = engine.predict("echo").json()
    assert answer["outputs"][0]["data"] == [1, 2, 3, 4]
    assert answer["model_version"] == "1"


def test_status_says_why_a_model_does_not_answer(engine: RunningEngine) -> None:
    assert engine.predict("bad").status_code == 503
    shown = engine.serving("status")
    assert shown.returncode == 1
    assert "the weights are not there" in shown.stdout
    states = {
        f"{v['model']}/{v['version']}": (v["state"], v["reason"]) for v in json.loads(engine.serving("status", "--json").stdout)["versions"]
    }
    assert states["echo/1"] == ("ready", "")
    assert states["big/1"][0] == "failed"
    assert states["big/1"][1].startswith("needs 64 GPUs, ")


def test_process_titles_show_model_and_version(engine: RunningEngine) -> None:
    assert len(engine.processes("ray::ServeReplica:echo@1")) == 2
    assert len(engine.processes("ray::ServeReplica:gateways")) == 1


def test_everything_listens_on_loopback_only(engine: RunningEngine) -> None:
    pids = {*engine.processes(), engine.process.pid}
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line.split()[3] for line in lines if any(f"pid={pid}," in line for pid in pids)]
    assert len(ours) >= 4
    assert [a for a in ours if not a.startswith(("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:"))] == []


def test_sockets_and_state_are_private(engine: RunningEngine) -> None:
    assert engine.run_dir.stat().st_mode & 0o777 == 0o700
    assert engine.state_dir.stat().st_mode & 0o777 == 0o700
    sockets = [p for p in engine.run_dir.iterdir() if p.is_socket()]
    assert len(sockets) >= 4
    assert {p.name: oct(p.stat().st_mode & 0o077) for p in sockets} == {p.name: "0o0" for p in sockets}


def test_a_second_engine_on_the_same_state_or_port_is_refused(engine: RunningEngine, tmp_path: Path) -> None:
    same_state = RunningEngine(engine.state_dir, write_model(tmp_path, "echo"))
    assert f"another engine (pid {engine.process.pid})" in same_state.refusal()
    same_port = RunningEngine(tmp_path / "state", write_model(tmp_path, "echo"), ports=[*free_ports(3), engine.control])
    assert f"port {engine.control}: Address already in use" in same_port.refusal()


@pytest.mark.parametrize("title", [f"ray::ServeReplica:{app}" for app in ("echo@1", "gateways", "edge", "controller")])
def test_a_killed_process_is_replaced_and_requests_wait_for_it(engine: RunningEngine, title: str) -> None:
    before = engine.processes(title)
    os.kill(before[0], signal.SIGKILL)
    assert {engine.predict("echo").status_code for _ in range(20)} == {200}
    wait(lambda: len(set(engine.processes(title)) - set(before)) == 1, REPLACED_S, f"{title} replaced")
    wait(lambda: engine.serving("status", "--json").stdout.startswith("{") and engine.status()["settled"], REPLACED_S, "settled")


def test_versions_come_move_and_go_without_a_failed_request(engine: RunningEngine, folder: Path) -> None:
    with Asking(engine, "echo") as asking:
        both = write_model(folder / "models", "echo", "1 2", replicas=2, traffic={"stable": 2})
        old = set(engine.processes("ray::ServeReplica:echo@1"))
        assert "echo/2 ready" in engine.serving("apply", str(both)).stderr
        assert engine.predict("echo").json()["model_version"] == "2"
        assert engine.predict("echo", "1").json()["model_version"] == "1"
        assert set(engine.processes("ray::ServeReplica:echo@1")) == old
        only = write_model(folder / "models", "echo", "2")
        engine.serving("apply", str(only))
        assert engine.predict("echo").json()["model_version"] == "2"
        assert engine.predict("echo", "1").status_code == 404
        assert engine.processes("ray::ServeReplica:echo@1") == []
        assert len(engine.processes("ray::ServeReplica:echo@2")) == 1
    assert asking.failed == []
    assert asking.versions == ["1", "2"]


def test_batching_changes_in_place(engine: RunningEngine, folder: Path) -> None:
    write_model(folder / "models", "echo", "2")
    engine.serving("apply", str(folder / "models" / "echo.yaml"))
    before = engine.processes("ray::ServeReplica:echo@2")
    changed = write_model(folder / "models", "echo", "2", batching={"max_batch_size": 8, "max_delay_ms": 1})
    engine.serving("apply", str(changed))
    assert {engine.predict("echo").status_code for _ in range(50)} == {200}
    assert engine.processes("ray::ServeReplica:echo@2") == before


def test_a_model_that_is_mended_loads_at_the_next_apply(engine: RunningEngine, folder: Path) -> None:
    (folder / "models" / "bad.py.broken").unlink()
    mended = engine.serving("apply", str(folder / "models" / "bad.yaml"))
    assert "bad/1 ready" in mended.stderr
    assert engine.predict("bad").status_code == 200


def test_a_deleted_model_is_gone(engine: RunningEngine) -> None:
    assert "there is no model 'nobody'" in engine.serving("delete", "nobody").stderr
    engine.serving("delete", "bad")
    assert engine.predict("bad").status_code == 404
    assert engine.processes("ray::ServeReplica:bad@1") == []


def test_the_control_api_refuses_a_page_of_another_site(engine: RunningEngine) -> None:
    url = f"http://127.0.0.1:{engine.control}/api/down"
    assert httpx.post(url, json={}, headers={"origin": "http://evil.example"}).status_code == 403
    assert engine.status()["settled"]


def test_down_ends_everything_and_the_next_start_remembers(engine: RunningEngine, folder: Path) -> None:
    engine.serving("delete", "big")
    run_dir = engine.run_dir
    assert engine.serving("down").returncode == 0
    assert engine.process.wait(60) == 0
    assert engine.processes() == []
    assert not run_dir.exists()
    again = RunningEngine(folder / "state")
    try:
        again.wait_ready()
        assert again.predict("echo").json()["model_version"] == "2"
        # killed like this, nobody drains or cleans up; Ray and the rest have to notice by themselves
        os.kill(again.process.pid, signal.SIGKILL)
        again.process.wait(60)
        wait(lambda: again.processes() == [], 120, "processes end after their engine was killed")
    finally:
        again.stop()


def test_commands_say_when_no_engine_answers() -> None:
    port = free_ports(1)[0]
    shown = run("status", "--url", f"http://127.0.0.1:{port}")
    assert shown.returncode == 1
    assert f"no engine answers at http://127.0.0.1:{port}" in shown.stderr


def test_an_invalid_file_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("models: {echo: {versions: {1: {artefact: nowhere.pt2}}}}")
    shown = run("up", str(file), f"--state-dir={tmp_path / 'state'}")
    assert shown.returncode == 1
    assert f"{file}:1:" in shown.stdout
    assert not (tmp_path / "state").exists()
