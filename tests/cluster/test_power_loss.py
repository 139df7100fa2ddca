"""Power loss: all is killed at once, writes are torn, and `serving up` on the same state directory goes on with what was promised."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.running import RunningEngine, wait, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]


def power_off(engine: RunningEngine) -> None:
    """Kill every process of the engine, none of which gets to say anything."""
    for pid in [engine.process.pid, *engine.processes()]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it went with the one before
    engine.process.wait(60)
    wait(lambda: engine.processes() == [], 120, "all are dead")


def same(engine: RunningEngine) -> None:
    """It serves what the first start was given."""
    assert [(v["model"], v["version"], v["state"], v["stable"], v["wanted"]) for v in engine.status()["versions"]] == [
        ("echo", "1", "ready", True, 1),
        ("echo", "2", "ready", False, 1),
        ("other", "1", "ready", True, 2),
    ]
    assert engine.predict("echo").json()["model_version"] == "1"
    assert engine.predict("echo", "2").json()["model_version"] == "2"
    assert engine.predict("other").status_code == 200
    assert len(engine.status()["gateways"]) == 1


def test_an_engine_that_lost_its_power_goes_on_where_it_was(tmp_path: Path) -> None:
    files = [write_model(tmp_path, "echo", "1 2", traffic={"stable": 1})]
    state = tmp_path / "state"
    engine = RunningEngine(state, *files)
    ports = [engine.http, engine.grpc, engine.metrics, engine.control]
    try:
        engine.wait_ready()
        assert engine.serving("apply", str(write_model(tmp_path, "other", replicas=2))).returncode == 0
        same(engine)
        # what holds all the others goes: the engine starts again by itself, in the same process
        lost = engine.run_dir
        raylet = engine.processes("/raylet")[0]
        os.kill(raylet, signal.SIGKILL)
        engine.wait_ready(times=2)
        assert any("error: Ray has ended: its raylet was killed (SIGKILL)" in line for line in engine.lines)
        assert not lost.exists()
        same(engine)

        power_off(engine)
        stale = engine.run_dir
        (stale / "boot.json").write_text('{"host": "127.0.0.1", "http_p')
        with (state / "state.db-wal").open("ab") as journal:
            journal.write(os.urandom(3000))

        engine = RunningEngine(state, ports=ports)
        engine.wait_ready()
        same(engine)
        assert not stale.exists()
        power_off(engine)
        (state / "state.db").write_bytes(os.urandom(20_000))

        engine = RunningEngine(state, ports=ports)
        engine.wait_ready()
        same(engine)
        assert any("state.db was damaged and lies in" in line for line in engine.lines)
        power_off(engine)
        (state / "state.db").write_bytes(b"")
        (state / "latest.json").unlink()

        # nothing of what ran is known any more: that must be said, and files start it anew
        engine = RunningEngine(state, ports=ports)
        assert "nothing to serve: no file was given" in engine.refusal()
    finally:
        engine.stop()
