"""The record on a real engine: a second version, a failed one, the way back while the first is warm, a backup that serves elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.running import RunningEngine, wait, write_model

pytestmark = pytest.mark.cluster


def write(folder: Path, versions: str, stable: int) -> Path:
    return write_model(folder, "echo", versions, traffic={"stable": stable})


def test_a_change_is_planned_recorded_undone_and_restored(tmp_path: Path) -> None:
    file = write(tmp_path, "1", 1)
    engine = RunningEngine(tmp_path / "state", file)
    try:
        engine.wait_ready()
        first = engine.answering_process("echo")
        _a_plan_comes_true(engine, tmp_path)
        _the_way_back_is_quick(engine, first)
        _a_failed_version_touches_nothing(engine, tmp_path)
        _the_record_tells_it(engine)
        made = engine.serving("backup", str(tmp_path / "backup.tar"), "--artefacts")
        assert made.returncode == 0, made.stderr
    finally:
        engine.stop()
    _the_backup_serves(tmp_path)


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
    wait(lambda: len(engine.status()["versions"]) == 1, 120, "version 2 is no longer declared")


def _a_failed_version_touches_nothing(engine: RunningEngine, folder: Path) -> None:
    broken = write_model(folder / "broken", "echo", "3", broken=True)
    failed = engine.serving("apply", str(broken))
    assert failed.returncode == 1
    assert "the weights are not there" in failed.stderr
    assert engine.predict("echo").json()["model_version"] == "1"
    assert engine.status()["answering"] == {"echo": "1"}
    assert engine.serving("rollback", "echo").returncode == 0
    assert engine.status()["failed"] == []


def _the_record_tells_it(engine: RunningEngine) -> None:
    revisions = json.loads(engine.serving("history", "echo", "--json").stdout)["revisions"]
    assert [(r["revision"], r["author"], r["reason"]) for r in revisions[2:4]] == [(3, "bob", "it was not"), (2, "ann", "a better one")]
    assert "stable" in engine.serving("history", "--show", "2").stdout
    events = json.loads(engine.serving("events", "--model", "echo", "--json").stdout)["events"]
    kinds = [e["kind"] for e in events]
    assert (kinds[0], set(kinds[1:4])) == ("apply", {"traffic", "version.ready", "live"})
    assert kinds.count("rollback") == 2
    assert "version.failed" in kinds
    checked = engine.serving("events", "--verify")
    assert (checked.returncode, checked.stdout[:6]) == (0, "intact")
    figures = json.loads(engine.serving("kpis", "--json").stdout)["models"]["echo"]
    assert (figures["deployments"], figures["changes"], figures["failures"]) == (2, 3, 2)


def _the_backup_serves(folder: Path) -> None:
    (folder / "echo.py").unlink()
    engine = RunningEngine(folder / "unused")
    assert "nothing to serve" in engine.refusal()
    restored = engine.serving("restore", str(folder / "backup.tar"), "--state-dir", str(folder / "restored"))
    assert restored.returncode == 0, restored.stderr
    assert "echo/1 run from" in restored.stderr
    engine = RunningEngine(folder / "restored")
    try:
        engine.wait_ready()
        assert engine.predict("echo").json()["model_version"] == "1"
        events = json.loads(engine.serving("events", "--kind", "engine", "--json").stdout)["events"]
        assert [e["kind"] for e in events] == ["engine.started", "engine.started"]
    finally:
        engine.stop()
