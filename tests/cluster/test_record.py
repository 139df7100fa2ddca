"""The record on a real engine: a second version as planned, and the way back while the first is warm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.running import RunningEngine, wait, write_model

pytestmark = pytest.mark.cluster


def write(folder: Path, versions: str, stable: int) -> Path:
    return write_model(folder, "echo", versions, traffic={"stable": stable})


def test_a_change_comes_as_planned_and_is_undone_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "1", 1)
    engine = RunningEngine(tmp_path / "state", file)
    try:
        engine.wait_ready()
        first = engine.answering_process("echo")
        _a_plan_comes_true(engine, tmp_path)
        _the_way_back_is_quick(engine, first)
    finally:
        engine.stop()


def _a_plan_comes_true(engine: RunningEngine, folder: Path) -> None:
    both = write(folder, "1 2", 2)
    assert engine.serving("diff", str(both)).returncode == 3
    planned = engine.serving("plan", str(both), "--out", str(folder / "plan.json"), "--json")
    assert planned.returncode == 3, planned.stderr
    found = json.loads(planned.stdout)
    assert [c["change"] for c in found["changes"]] == ["start", "route"]
    assert (found["replicas"], found["unfit"]) == ({"echo/2": {"before": 0, "after": 1}}, [])
    assert found["resources"][0]["name"] == "CPU"
    assert found["resources"][0]["free"] <= found["resources"][0]["total"]
    applied = engine.serving("apply", str(folder / "plan.json"), "--reason", "a better one", "--author", "ann")
    assert applied.returncode == 0, applied.stderr
    assert engine.predict("echo").json()["model_version"] == "2"
    refused = engine.serving("apply", str(folder / "plan.json"))
    assert (refused.returncode, "no longer what the plan was made against" in refused.stderr) == (1, True)
    assert engine.serving("diff", str(both)).returncode == 0


def _the_way_back_is_quick(engine: RunningEngine, first: int) -> None:
    back = engine.serving("rollback", "echo", "--reason", "it was not", "--author", "bob")
    assert back.returncode == 0, back.stderr
    moved = re.search(r"([\d.]+) s  every gateway sends echo to version 1", back.stderr)
    assert moved, back.stderr
    assert engine.answering_process("echo") == first  # it was warm: nothing was started
    wait(lambda: len(engine.status()["versions"]) == 1, 10, "version 2 is no longer declared")
