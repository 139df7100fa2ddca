from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from click.testing import Result as Invoked
from typer.testing import CliRunner

from serving.bench.result import Result
from serving.bench.sweep import Sweep
from serving.cli import bench_report
from tests.bench.samples import runs

STEADY = [100.0, 101.0, 99.0, 100.0, 100.5, 99.5]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    runs(STEADY, slo_ms=50.0, interleaved="x").write(tmp_path / "before.json")
    runs([2 * rate for rate in STEADY], slo_ms=50.0, interleaved="x").write(tmp_path / "after.json")
    (tmp_path / "sweep.json").write_text(Sweep(name="ours", points=[runs([100]), runs([200])]).text())
    (tmp_path / "rules.txt").write_text("# bounds\nerrors==0\nthroughput>=0.97x\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Invoked:
    app = typer.Typer()
    bench_report.register(app)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("folder")
def test_a_result_is_shown_as_tables() -> None:
    shown = run("report", "before.json")
    assert shown.exit_code == 0
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "mlp over rest, 16 at a time, 6 × 4 s · fake 1.0"
    assert "FIGURE VALUE MEAN OF RUNS, 95 % INTERVAL" in lines
    assert "throughput 100/s 100/s, 99.3/s to 101/s" in lines


def test_several_results_are_a_row_each_and_go_to_files(folder: Path) -> None:
    shown = run("report", "before.json", "after.json", "sweep.json", "--html", "out/page.html", "--csv", "all.csv", "--timeline", "t.csv")
    assert shown.exit_code == 0
    assert len(shown.stdout.strip().splitlines()) == 2 + 4
    assert "Throughput against latency" in (folder / "out" / "page.html").read_text()
    with (folder / "all.csv").open() as file:
        assert sum(row["scope"] == "all" for row in csv.DictReader(file)) == 4
    assert (folder / "t.csv").read_text().startswith("result,repetition,at_s")
    assert shown.stderr.splitlines() == ["written: out/page.html", "written: all.csv", "written: t.csv"]


def test_a_comparison_ends_with_its_verdicts(folder: Path) -> None:
    shown = run("compare", "before.json", "after.json", "--html", "page.html")
    assert shown.exit_code == 0
    assert "basis:  6 pairs that took turns" in shown.stdout
    assert shown.stdout.strip().splitlines()[-1].startswith("better: throughput, goodput")
    assert "What changed" in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("files", "gate", "code"),
    [
        (("before.json", "after.json"), ["rules.txt"], 0),
        (("before.json", "after.json"), ["rules.txt", "p99<=1ms"], 1),
        (("after.json", "before.json"), ["rules.txt"], 1),
        (("before.json", "after.json"), ["p98<=1ms"], 2),
    ],
)
def test_a_gate_decides_the_exit_code(folder: Path, files: tuple[str, str], gate: list[str], code: int) -> None:
    shown = run("compare", *files, *(part for rule in gate for part in ("--gate", rule)), "--junit", "j.xml")
    assert shown.exit_code == code
    if code < 2:
        suite = ElementTree.fromstring((folder / "j.xml").read_text())[0]
        assert int(suite.get("failures", "")) == code
        assert [case.get("name") for case in suite][:2] == ["errors==0", "throughput>=0.97x"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["before.json", "--gate", "errors==0"], 0, "passed"),
        (["before.json", "--gate", "throughput>=150"], 1, "failed"),
        (["after.json", "--gate", "throughput>=1.5x", "--before", "before.json"], 0, "passed"),
        (["after.json", "--gate", "throughput>=1.5x"], 2, "there is none"),
        (["after.json"], 2, "expected --gate RULE"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_one_result_can_be_judged_alone(arguments: list[str], code: int, said: str) -> None:
    shown = run("gate", *arguments)
    assert (shown.exit_code, said in shown.stdout + shown.stderr) == (code, True)


@pytest.mark.usefixtures("folder")
def test_strict_takes_noise_for_failure() -> None:
    runs([100, 200, 80, 150]).write(Path("a.json"))
    runs([90, 100, 180, 85]).write(Path("b.json"))
    assert run("compare", "a.json", "b.json", "--gate", "throughput>=0.97x").exit_code == 0
    assert run("compare", "a.json", "b.json", "--gate", "throughput>=0.97x", "--strict").exit_code == 1


@pytest.mark.parametrize(
    ("name", "problem"),
    [("none.json", "cannot be read: No such file"), ("rules.txt", "is not JSON"), ("other.json", "is not a result of version 1")],
)
@pytest.mark.usefixtures("folder")
def test_a_file_that_is_no_result_is_said_in_one_sentence(name: str, problem: str) -> None:
    Path("other.json").write_text("{}")
    shown = run("report", name)
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert shown.stderr.startswith(f"serving: {name} {problem}")


def test_the_schema_is_printed() -> None:
    assert json.loads(run("result-schema").stdout) == Result.json_schema()
