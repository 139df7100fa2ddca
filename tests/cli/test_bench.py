from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from serving.bench.arrivals import Bursty, Constant, Poisson, Ramp, Recorded, Step
from serving.bench.load import Closed, Open
from serving.bench.recording import Progress
from serving.bench.scenario_file import scenario_schema
from serving.bench.sweep import read
from serving.cli import bench, credentials
from serving.cli.bench_options import Options, parse_numbers
from serving.cli.bench_progress import line
from serving.errors import InvalidArgument
from tests.bench.fake_v2 import FakeV2

QUICK = ("--duration", "0.2", "--warm-up", "0")
NAMES = (
    "scenario", "model", "url", "api_key", "protocol", "driver", "streaming", "slo_ms", "repetitions", "name", "pid", "tls_ca", "tls_cert",
    "tls_key", "tls_insecure", "header", "batch_size", "encoding", "samples", "version", "input", "expect", "output", "shape", "duration_s",
    "max_requests", "warm_up_s", "processes", "connections", "streams", "new_connection", "timeout_s", "check_share", "seed", "concurrency",
    "rate", "arrivals", "ramp_over", "steps", "recorded", "max_in_flight",
)  # fmt: skip
DEFAULTS: dict[str, Any] = {**dict.fromkeys(NAMES), "burstiness": 0.25, "ramp_from": 0.0, "repeat_steps": False, "speed": 1.0}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeV2]:
    with FakeV2() as server:
        yield server


def call(*arguments: str) -> Result:
    app = typer.Typer()
    bench.register(app)
    return CliRunner().invoke(app, ["bench", *arguments])


def options(**given: Any) -> Options:
    return Options({**DEFAULTS, **given})


def test_the_key_is_an_option_or_that_of_the_whole_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model": ["m"], "url": "http://h:1"}
    assert options(**asked).scenario().headers == ()
    assert options(**asked, api_key="k1").scenario().headers == (("authorization", "Bearer k1"),)
    monkeypatch.setattr(credentials, "_told", {"api_key": "k2", "ca": "ca.pem"})
    assert options(**asked).scenario().headers == (("authorization", "Bearer k2"),)
    assert options(**asked).scenario().tls.ca_file == "ca.pem"
    assert options(**asked, tls_ca=Path("other.pem")).scenario().tls.ca_file == "other.pem"
    assert options(**asked, api_key="k1").scenario().headers == (("authorization", "Bearer k1"),)
    assert options(**asked, header=["X-Api-Key: k3"]).scenario().headers == (("x-api-key", "k3"),)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_basic_form_writes_what_was_promised(fake: FakeV2, protocol: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    address = fake.rest if protocol == "rest" else fake.grpc
    done = call(
        "run", "--url", f"http://{address}", "--model", "double", "--protocol", protocol, "--concurrency", "2", *QUICK, "--json", str(out)
    )
    assert done.exit_code == 0, done.output
    said = json.loads(out.read_text())
    assert said["schema_version"] == 1
    assert said["throughput_rps"] > 0
    assert said["errors"] == 0
    assert {"p50", "p90", "p95", "p99", "p999", "max"} <= said["latency_ms"].keys()
    assert said["target"]["protocol"] == protocol
    assert "throughput" in done.output
    assert f"written: {out}" in done.output


def test_an_open_loop_with_a_mix_in_all_forms(fake: FakeV2, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "html", "csv")}
    written = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    mix = ("--model", "double:3", "--model", "plain:1", "--rate", "100", "--arrivals", "constant", "--slo-ms", "1000", "--name", "my test")
    done = call("run", "--url", fake.rest, *mix, "--duration", "0.5", "--warm-up", "0", "--quiet", *written)
    assert done.exit_code == 0, done.output
    assert [text for text in done.output.splitlines() if not text.startswith("written: ")] == []
    said = json.loads(files["json"].read_text())
    assert set(said["requests"]) == {"double", "plain"}
    assert (said["load"]["arrivals"], said["name"], said["answers"]) == ("constant", "my test", 50)
    assert said["goodput_rps"] > 0
    assert "<svg" in files["html"].read_text()
    assert [row["scope"] for row in csv.DictReader(files["csv"].read_text().splitlines())] == ["all", "request", "request", "repetition"]


def test_json_on_stdout_is_nothing_but_json(fake: FakeV2) -> None:
    done = call("run", "--url", fake.rest, "--model", "double", "--max-requests", "5", "--warm-up", "0", "--json", "-")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["answers"] == 5


def test_a_sweep_has_a_point_for_each_load(fake: FakeV2, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = call("run", "--url", fake.rest, "--model", "double", "--sweep", "1,2", *QUICK, "--json", str(out))
    assert done.exit_code == 0, done.output
    assert [point.load.concurrency for point in read(out).points] == [1, 2]  # type: ignore[union-attr]
    rates = ("--sweep-rates", "20,40", "--arrivals", "constant")
    done = call("run", "--url", fake.rest, "--model", "double", *rates, *QUICK, "--json", str(out), "--html", str(tmp_path / "out.html"))
    assert done.exit_code == 0, done.output
    assert [point.load.rate_rps for point in read(out).points] == [20, 40]  # type: ignore[union-attr]


def test_a_scenario_file_with_options_beside_it(fake: FakeV2, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("name: mine\nrequests: [{model: double}, {model: plain}]\nload: {concurrency: 3, duration_s: 60, warm_up_s: 0}\n")
    done = call("run", "--scenario", str(file), "--url", fake.rest, "--max-requests", "10", "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "out.json").read_text())
    assert (said["name"], said["load"]["concurrency"], said["answers"]) == ("mine", 3, 10)


def test_windows_until_they_agree(fake: FakeV2, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    stable = ("--stable", "--stable-within", "1", "--windows", "12", "--stable-percentile", "90")
    done = call("run", "--url", fake.rest, "--model", "double", *QUICK, *stable, "--json", str(out), "--driver", "triton-aio")
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["stability"] == {
        "stable": True, "within": 1.0, "percentile": "p90", "windows": json.loads(out.read_text())["stability"]["windows"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "double"), 2, "no server is named: give --url"),
        (("--url", "{rest}"), 2, "no model is named: give --model NAME"),
        (("--url", "ftp://h", "--model", "m"), 2, "'ftp://h' is not an address"),
        (("--url", "{rest}", "--model", "m", "--concurrency", "2", "--rate", "3"), 2, "give one of them"),
        (("--url", "{rest}", "--model", "m", "--arrivals", "poisson"), 2, "--arrivals poisson needs --rate"),
        (("--url", "{rest}", "--model", "m", "--shape", "x"), 2, "'x' is not a shape"),
        (("--url", "{rest}", "--model", "m", "--header", "x"), 2, "expected 'name: value'"),
        (("--url", "{rest}", "--model", "m:0"), 2, "a weight above 0"),
        (("--url", "{rest}", "--model", "m", "--sweep", "1,2.5"), 2, "a concurrency is a whole number"),
        (("--url", "{rest}", "--model", "m", "--sweep", "1", "--sweep-rates", "5"), 2, "give one of them"),
        (("--url", "{rest}", "--model", "m", "--stable", "--repetitions", "2"), 2, "leave --repetitions out"),
        (("--url", "{rest}", "--model", "m", "--json", "/proc/self/none/out.json"), 2, "cannot write /proc/self/none/out.json"),
        (("--url", "http://{rest}", "--model", "m", "--streaming"), 2, "streams are a matter of gRPC"),
        (("--url", "{rest}", "--model", "m", "--concurrency", "many"), 2, ""),
        (("--url", "{rest}", "--model", "duoble"), 1, "did you mean 'double'?"),
        (("--url", "{rest}", "--model", "any"), 1, "say which to send, --shape x:8"),
        (("--url", "{free}", "--model", "m"), 1, "cannot be reached"),
        (("--url", "grpc://{free}", "--model", "m"), 1, "cannot be reached"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(fake: FakeV2, arguments: tuple[str, ...], code: int, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = f"127.0.0.1:{listener.getsockname()[1]}"
    done = call("run", *(text.format(rest=fake.rest, free=free) for text in arguments))
    assert done.exit_code == code, done.output
    assert words in done.output
    assert "Traceback" not in done.output


def test_an_invalid_scenario_is_told_with_its_places(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("requests: [{modle: m}]\n")
    done = call("run", "--scenario", str(file))
    assert done.exit_code == 1
    assert f"{file}:1:13: unknown key 'modle' in requests[0]; did you mean 'model'?" in done.output


def test_a_server_that_only_fails_is_exit_code_1(fake: FakeV2, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"x": [[1, 2, 3, 4]]}')
    (tmp_path / "y.json").write_text('{"y": [[2, 4, 6, 8]]}')
    files = ("--input", str(tmp_path / "x.json"), "--expect", str(tmp_path / "y.json"), "--check-share", "1")
    done = call("run", "--url", fake.rest, "--model", "wrong", *QUICK, *files)
    assert done.exit_code == 1
    assert "wrong body" in done.output


def test_ctrl_c_still_reports(fake: FakeV2, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = "import typer; from serving.cli import bench; app = typer.Typer(); bench.register(app); app()"
    arguments = ["bench", "run", "--url", fake.rest, "--model", "double", "--duration", "600", "--warm-up", "0", "--json", str(out)]
    fake.models["double"].count = 0
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ}
    )
    assert fake.models["double"].reached(100, 60)  # the first is the trial before the load
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    said = json.loads(out.read_text())
    assert said["answers"] > 0
    assert said["duration_s"] < 300
    assert "ended before its time" in said["warnings"]
    assert said["command"][1:] == arguments


def test_the_schema_of_scenarios_is_printed() -> None:
    done = call("schema")
    assert json.loads(done.output) == scenario_schema()


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({}, Closed(1)),
        ({"concurrency": 8}, Closed(8)),
        ({"rate": 5.0}, Open(Poisson(5))),
        ({"rate": 5.0, "arrivals": "constant", "max_in_flight": 7}, Open(Constant(5), 7)),
        ({"rate": 5.0, "arrivals": "bursty", "burstiness": 0.1}, Open(Bursty(5, 0.1))),
        ({"rate": 5.0, "arrivals": "ramp", "ramp_over": 3.0, "ramp_from": 1.0}, Open(Ramp(1, 5, 3))),
        ({"steps": "1:2,0:1", "repeat_steps": True}, Open(Step(((1, 2), (0, 1)), True))),
    ],
)
def test_options_shape_the_load(given: dict[str, Any], shape: Closed | Open) -> None:
    load = options(url="h:1", model=["m"], duration_s=3.0, **given).scenario().load
    assert (load.shape, load.duration_s, load.warm_up_s) == (shape, 3.0, 1.0)


def test_recorded_arrivals_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("5\n6\n")
    load = options(url="h:1", model=["m"], recorded=tmp_path / "t.txt", speed=2.0).scenario().load
    assert load.shape == Open(Recorded((0.0, 1.0), 2.0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arrivals": "ramp", "rate": 5.0}, "--ramp-over"),
        ({"arrivals": "step"}, "--steps RATE:SECONDS"),
        ({"arrivals": "recorded"}, "--recorded FILE"),
        ({"steps": "5"}, "expected RATE:SECONDS"),
        ({"expect": Path("y.npy")}, "give both"),
        ({"model": ["a", "b"], "input": Path("x.npy")}, "are for one model"),
    ],
)
def test_options_that_do_not_go_together_are_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        options(**{"url": "h:1", "model": ["m"], **given}).scenario()


def test_options_reach_every_model() -> None:
    given = {"model": ["a:3", "b:1", "c:d"], "version": "2", "batch_size": 4, "shape": ["x:3,4"], "encoding": "json", "header": ["A: b: c"]}
    scenario = options(url="h:1", **given).scenario()
    assert [(a.model, a.weight, a.version, a.batch_size) for a in scenario.requests] == [
        ("a", 3, "2", 4),
        ("b", 1, "2", 4),
        ("c:d", 1, "2", 4),
    ]
    assert all(dict(a.shapes) == {"x": (3, 4)} and a.encoding == "json" for a in scenario.requests)
    assert scenario.headers == (("a", "b: c"),)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "0,1", "-1"])
def test_numbers_of_a_sweep_are_checked(text: str) -> None:
    assert parse_numbers("1,2.5", "--sweep") == [1, 2.5]
    with pytest.raises(InvalidArgument, match="expected numbers above 0"):
        parse_numbers(text, "--sweep")


def test_progress_is_one_line() -> None:
    said = line(Progress("measuring", 5.0, 10.0, 5000, 2, 1000.0, 1.5, 20.0, 16), "1/2 ")
    assert said.startswith("1/2 measuring ━━━━━━━━━━━━ ")
    assert "5 of 10 s   1,000/s   p50 1.5 ms   p99 20 ms   16 under way   2 errors" in said
    assert "\n" not in said
    assert line(Progress("starting", 0.0, 0.0, 0, 0, 0.0, 0.0, 0.0, 0)).startswith("starting")
