"""`serving plan`, `diff` and saved plans, without an engine or with one of paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app, control
from serving.cli import plan as plan_module
from serving.cli.junit import write_junit
from serving.plan import Target, World, fingerprint, outlook
from serving.spec import load

ONE = "models: {m: {versions: {1: {artefact: a.pt2}}}}\n"
TWO = "models: {m: {versions: {1: {artefact: a.pt2}, 2: {artefact: a.pt2}}, traffic: {stable: 2}}}\n"


class PaperEngine:
    """Answers what the control API would; `asked` is what it was sent."""

    def __init__(self, running: Target) -> None:
        self.running = running
        self.asked: list[tuple[str, Any]] = []
        self.unfit: list[dict[str, Any]] = []

    def ask(self, method: str, url: str, path: str, json: Any = None, patience_s: float = 0.0) -> dict[str, Any]:
        self.asked.append((path, json))
        if path == "/api/target":
            return self.running.to_json()
        if path == "/api/plan":
            found = outlook(Target.from_json(json["target"]), World.of(self.running), []).to_json()
            return {"base": {"revision": 3, "fingerprint": fingerprint(self.running)}, **found, "unfit": self.unfit}
        versions = [{"model": "m", "version": "1", "state": "ready", "reason": ""}]
        return {"revision": 4, "settled": True, "versions": versions, "failed": [], "waiting": [], "answering": {}}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaperEngine:
    (tmp_path / "a.pt2").write_bytes(b"a")
    (tmp_path / "one.yaml").write_text(ONE)
    (tmp_path / "two.yaml").write_text(TWO)
    monkeypatch.chdir(tmp_path)
    engine = PaperEngine(load(["one.yaml"]))
    monkeypatch.setattr(plan_module, "ask", engine.ask)
    monkeypatch.setattr(control, "ask", engine.ask)
    return engine


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("engine")
def test_nothing_to_change_is_zero_and_changes_are_three() -> None:
    same = run("plan", "one.yaml")
    assert (same.exit_code, same.stdout) == (0, "nothing to change (revision 3)\n")
    other = run("plan", "two.yaml")
    assert other.exit_code == 3
    assert other.stdout.splitlines()[:3] == [
        "2 changes against revision 3",
        "  m/2 starts on 1 replica",
        "  traffic of m: 1 → 2, no restart",
    ]
    assert "m         100 % to 1      100 % to 2" in other.stdout


@pytest.mark.usefixtures("engine")
def test_offline_everything_is_new_and_no_engine_is_asked(engine: PaperEngine) -> None:
    result = run("plan", "one.yaml", "--offline", "--json")
    assert result.exit_code == 3
    assert engine.asked == []
    assert [c["effect"] for c in json.loads(result.stdout)["changes"]][-2:] == ["m/1 starts on 1 replica", "m answers with version 1"]


def test_what_finds_no_room_is_one_and_a_failed_test_for_ci(engine: PaperEngine) -> None:
    engine.unfit = [{"key": "m/2", "reason": "needs 8 GPUs, the cluster has 0", "ever": True}]
    result = run("plan", "two.yaml", "--junit", "plan.xml")
    assert result.exit_code == 1
    assert "does not fit: m/2 needs 8 GPUs, the cluster has 0" in result.stdout
    suite = ElementTree.parse("plan.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite if len(case)] == ["m/2 finds room"]


def test_a_saved_plan_is_applied_onto_the_base_that_it_was_made_against(engine: PaperEngine) -> None:
    assert run("plan", "two.yaml", "--out", "plan.json").exit_code == 3
    assert run("apply", "plan.json", "--reason", "as agreed", "--author", "ann").exit_code == 0
    order = next(body for path, body in engine.asked if path == "/api/apply")
    assert order["expect"] == fingerprint(engine.running)
    assert Target.from_json(order["target"]) == load(["two.yaml"])
    assert (order["author"], order["reason"], order["texts"]) == ("ann", "as agreed", [{"name": "two.yaml", "text": TWO}])


@pytest.mark.usefixtures("engine")
def test_a_saved_plan_is_refused_when_a_file_of_a_model_has_changed() -> None:
    run("plan", "two.yaml", "--out", "plan.json")
    Path("a.pt2").write_bytes(b"other")
    result = run("apply", "plan.json")
    assert result.exit_code == 1
    assert "a.pt2 has changed since (SHA-256 " in result.stderr


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("edit", [{"serving_plan": 2}, {"target": {}}, {"base": None}])
def test_a_plan_that_is_none_is_refused(edit: dict[str, Any]) -> None:
    run("plan", "two.yaml", "--out", "plan.json")
    Path("plan.json").write_text(json.dumps({**json.loads(Path("plan.json").read_text()), **edit}))
    assert run("apply", "plan.json").exit_code == 1


@pytest.mark.usefixtures("engine")
def test_drift_is_shown_value_by_value() -> None:
    assert run("diff", "one.yaml").stdout == "the engine is as the files say\n"
    result = run("diff", "two.yaml", "--json", "--junit", "diff.xml")
    assert result.exit_code == 3
    assert [d["place"] for d in json.loads(result.stdout)["drift"]] == ["models.m.traffic.stable", "models.m.versions.2"]
    suite = ElementTree.parse("diff.xml").getroot()[0]
    assert [(case.get("name"), len(case)) for case in suite] == [("m is as declared", 1), ("settings are as declared", 0)]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("command", ["plan", "diff"])
def test_files_that_are_wrong_are_a_failed_test_for_ci(command: str) -> None:
    Path("wrong.yaml").write_text(ONE.replace("a.pt2", "b.pt2"))
    result = run(command, "wrong.yaml", "--junit", "ci.xml")
    assert result.exit_code == 1
    (case,) = ElementTree.parse("ci.xml").getroot()[0]
    assert (case.get("name"), case[0].text) == ("the files are valid", result.stdout.rstrip("\n"))


@pytest.mark.usefixtures("engine")
def test_a_version_that_is_not_there_is_shown_by_its_file() -> None:
    rows = [line.split() for line in run("diff", "two.yaml").stdout.splitlines()]
    assert rows[2] == ["models.m.versions.2", str(Path("a.pt2").absolute()), "–"]


def test_junit_takes_any_text(tmp_path: Path) -> None:
    write_junit(tmp_path / "x.xml", "s", [("a\x00<b>", "\ud800&\x1b[31m")])
    case = ElementTree.parse(tmp_path / "x.xml").getroot()[0][0]
    assert (case.get("name"), case[0].text) == ("a?<b>", "?&?[31m")
