from __future__ import annotations

from pathlib import Path

import pytest
import typer
from click.testing import Result as Invoked
from typer.testing import CliRunner

from serving.bench.result import Result
from serving.cli import bench_ab, bench_report
from tests.bench.fake_v2 import FakeV2

SCENARIO = """
requests: [{model: double}]
load: {concurrency: 1, max_requests: 20, duration_s: 0, warm_up_s: 0}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "load.yaml"
    file.write_text(SCENARIO)
    return file


def run(*arguments: object) -> Invoked:
    app = typer.Typer()
    bench_ab.register(app)
    bench_report.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_two_servers_are_measured_in_turns_and_paired(scenario: Path, tmp_path: Path) -> None:
    files = tmp_path / "a.json", tmp_path / "b.json"
    with FakeV2() as one, FakeV2() as other:
        shown = run(
            "ab", scenario, scenario, "--url", f"http://{one.rest}", f"http://{other.rest}", "--pairs", 3,
            "--json", *files, "--html", tmp_path / "page.html", "--gate", "errors==0",
        )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert "basis:  3 pairs that took turns" in shown.stdout
    assert "Pair by pair" in (tmp_path / "page.html").read_text()
    a, b = map(Result.read, files)
    assert a.interleaved == b.interleaved is not None
    assert [run.answers for run in (*a.repetitions, *b.repetitions)] == [20] * 6
    assert min(one.models["double"].count, other.models["double"].count) >= 60
    assert (a.target.url, b.target.url) == (f"http://{one.rest}", f"http://{other.rest}")


def test_a_rule_that_fails_is_the_exit_code(scenario: Path) -> None:
    with FakeV2() as one, FakeV2() as other:
        shown = run(
            "ab", scenario, scenario, "--url", f"http://{one.rest}", f"http://{other.rest}", "--pairs", 1, "--gate", "throughput>=1000000/s"
        )
    assert shown.exit_code == 1
    assert "failed" in shown.stdout


def test_a_server_that_is_not_there_is_said_before_the_load_begins(scenario: Path) -> None:
    with FakeV2() as one:
        shown = run("ab", scenario, scenario, "--url", f"http://{one.rest}", "http://127.0.0.1:1", "--pairs", 1)
    assert shown.exit_code == 1
    assert "127.0.0.1:1" in shown.stderr
    assert one.models["double"].count <= 1  # the request that is tried beforehand


def test_a_wrong_scenario_is_said_with_its_place(tmp_path: Path, scenario: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("requests: []\n")
    shown = run("ab", scenario, tmp_path / "wrong.yaml")
    assert shown.exit_code == 1
    assert "wrong.yaml:1" in shown.stdout
