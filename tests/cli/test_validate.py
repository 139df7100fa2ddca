from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app

GOOD = (
    "models: {m: {versions: {1: {artefact: a.pt2}, 2: {artefact: a.pt2}}, traffic: {stable: 2}}, n: {versions: {1: {artefact: a.pt2}}}}\n"
)
BAD = "gateways: 0\nmodels: {m: {versions: {1: {artefact: b.pt2}}}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.pt2").write_bytes(b"a")
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("folder")
def test_a_valid_file_says_what_it_declares() -> None:
    result = run("validate", "good.yaml")
    assert (result.exit_code, result.stdout) == (0, "valid: m (versions 1, 2), n (version 1)\n")


def test_every_problem_is_a_line_and_the_exit_code_is_one(folder: Path) -> None:
    result = run("validate", "bad.yaml", "none.yaml")
    assert result.exit_code == 1
    assert result.stdout.split("\n") == [
        "none.yaml:1:1: cannot be read: No such file or directory",
        "bad.yaml:1:11: gateways: expected at least 1, got 0",
        f"bad.yaml:2:39: models.m.versions.1.artefact: '{folder / 'b.pt2'}' does not exist",
        "",
    ]


@pytest.mark.usefixtures("folder")
def test_programs_get_json() -> None:
    assert json.loads(run("validate", "--json", "good.yaml").stdout) == {
        "valid": True,
        "problems": [],
        "models": {"m": ["1", "2"], "n": ["1"]},
        "warnings": [],
    }
    result = run("validate", "bad.yaml", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["valid"], len(answer["problems"])) == (1, False, 2)
    assert answer["problems"][0] == {"file": "bad.yaml", "line": 1, "column": 11, "message": "gateways: expected at least 1, got 0"}


@pytest.mark.usefixtures("folder")
def test_an_engine_without_models_is_valid_where_it_is_said() -> None:
    Path("empty.yaml").write_text("models: {}\n")
    assert run("validate", "empty.yaml").stdout == "valid: no models\n"


@pytest.mark.parametrize("arguments", [("validate",), ("validate", "--what", "good.yaml"), ("validat",)])
def test_a_wrong_command_line_exits_with_two(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_names_the_commands_and_what_a_problem_looks_like() -> None:
    assert "validate" in run("--help").stdout
    assert "FILE:LINE:COLUMN" in run("validate", "-h").stdout
