from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from serving.bench.arrivals import Bursty, Constant, Poisson, Ramp, Recorded, Step
from serving.bench.load import Closed, Load, Open
from serving.bench.scenario import Asked, Scenario
from serving.bench.scenario_face import ScenarioFace
from serving.bench.scenario_file import parse_scenario, read_scenario, scenario_schema
from serving.errors import InvalidArgument
from serving.spec import InvalidSpec
from serving.spec.document import Document

SCENARIOS = Path(__file__).parents[2] / "benchmarks" / "scenarios"
FILES = sorted(SCENARIOS.glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(scenario_schema())

FULL = """
name: all words
description: for people
url: http://127.0.0.1:8000
protocol: rest
driver: triton
streaming: false
requests:
  - model: a
    version: 2
    name: first
    weight: 3
    batch_size: 4
    shapes: {x: [3, 224, 224]}
    input: rows.npz
    expect: rows.npz
    encoding: json
    outputs: [y]
    samples: 8
  - model: b
load:
  rate: 100
  arrivals: bursty
  burstiness: 0.5
  max_in_flight: 64
  duration_s: 5
  max_requests: 1000
  warm_up_s: 0
  processes: 2
  connections: 8
  streams: 2
  new_connection: true
  timeout_s: 3
  check_share: 0.5
  seed: 7
slo_ms: 20
repetitions: 2
"""


def parsed(text: str, folder: Path = Path("/nowhere")) -> Scenario:
    return parse_scenario("s.yaml", text, folder)


def test_every_word_arrives(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").touch()
    rows = tmp_path / "rows.npz"
    assert parsed(FULL, tmp_path) == Scenario(
        "http://127.0.0.1:8000",
        (Asked("a", "2", "first", 3, 4, {"x": (3, 224, 224)}, rows, rows, "json", ("y",), 8), Asked("b")),
        Load(Open(Bursty(100, 0.5), 64), 5, 1000, 0, 2, 8, 2, True, 3, check_share=0.5, seed=7),
        "all words",
        "rest",
        "triton",
        slo_ms=20,
        repetitions=2,
    )


def test_what_is_left_out_is_as_the_values_say() -> None:
    assert parsed("requests: [{model: m}]") == Scenario("", (Asked("m"),), Load(Closed(1), warm_up_s=1.0))


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ("concurrency: 8", Closed(8)),
        ("rate: 5", Open(Poisson(5))),
        ("{rate: 5, arrivals: constant}", Open(Constant(5))),
        ("ramp: {first: 1, last: 9, over_s: 3}", Open(Ramp(1, 9, 3))),
        ("{ramp: {last: 9, over_s: 3}, arrivals: constant}", Open(Ramp(0, 9, 3, "even"))),
        ("steps: [{rate: 1, seconds: 2}, {rate: 0, seconds: 1}]", Open(Step(((1, 2), (0, 1))))),
        ("{steps: [{rate: 1, seconds: 2}], repeat_steps: true, arrivals: constant}", Open(Step(((1, 2),), True, "even"))),
        ("{recorded: times.txt, speed: 2}", Open(Recorded((0.0, 0.5, 2.0), 2))),
    ],
)
def test_loads_have_their_shapes(tmp_path: Path, load: str, expected: Closed | Open) -> None:
    (tmp_path / "times.txt").write_text("# from a log\n10.0\n10.5, GET\n\n12\n")
    body = load if load.startswith("{") else f"{{{load}}}"
    assert parsed(f"requests: [{{model: m}}]\nload: {body}", tmp_path).load.shape == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("requests: []", "s.yaml:1:11: requests is empty, expected at least one entry"),
        ("{}", "s.yaml:1:1: 'requests' is missing"),
        ("requests:\n  - modle: m", "s.yaml:2:5: unknown key 'modle' in requests[0]; did you mean 'model'?"),
        ("requests:\n  - model: m\n    concurrency: 3", "s.yaml:3:5: unknown key 'concurrency' in requests[0]; expected one of model,"),
        ("requests: [{model: m}]\nconcurrency: 3", "s.yaml:2:1: unknown key 'concurrency'; it belongs under 'load'"),
        ("requests: [{model: m}]\nload: {url: h}", "s.yaml:2:8: unknown key 'url' in load; it belongs at the top of the file"),
        ("requests: [{model: m}]\nload: {ramp: {from: 3, last: 1, over_s: 1}}", "s.yaml:2:15: unknown key 'from' in load.ramp; expect"),
        ("requests: [{model: m}]\nload: {rate: fast}", "s.yaml:2:14: load.rate: expected a number, got the text 'fast'"),
        ("requests: [{model: m}]\nload: {rate: 5s}", "s.yaml:2:14: load.rate: expected a number, got the text '5s'; the unit is"),
        ("requests: [{model: m}]\nload: {concurrency: 0}", "s.yaml:2:21: load.concurrency: expected at least 1, got 0"),
        ("requests: [{model: m}]\nprotocol: http", "s.yaml:2:11: protocol: expected one of rest, grpc, got the text 'http'"),
        ("requests: [{model: m}]\nload: {rate: 5, concurrency: 4}", "s.yaml:2:14: load.rate: concurrency is given as well; a load"),
        ("requests: [{model: m}]\nload: {concurrency: 4, arrivals: bursty}", "s.yaml:2:34: load.arrivals: bursty arrivals need a rate"),
        ("requests: [{model: m}]\nload: {duration_s: 0}", "s.yaml:2:20: load.duration_s: without an end; give max_requests"),
        ("requests: [{model: m, input: x.npy}]", "s.yaml:1:30: requests[0].input: there is no file '/nowhere/x.npy'"),
        ("requests: [{model: m, expect: x.npy}]", "s.yaml:1:31: requests[0].expect: outputs belong to the rows of a file; give input"),
        ("requests: [{model: m}, {model: m}]", "s.yaml:1:24: requests[1]: 'm' is the name of requests[0] already; give each"),
        ("requests: [{model: m}]\nload: {processes: 8}", "s.yaml:2:7: load: 8 processes for 1 requests in flight"),
        ("requests: [{model: m}]\nrequests: [{model: n}]", "s.yaml:2:1: requests is given twice, first in line 1"),
        ("requests: [", "s.yaml:1:12: not YAML"),
    ],
)  # fmt: skip
def test_a_problem_is_told_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parsed(text)
    assert any(str(p).startswith(problem) for p in caught.value.problems), [str(p) for p in caught.value.problems]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parsed("requests: [{modle: m}]\nload: {rate: x}\nslo: 3")
    assert len(caught.value.problems) == 4


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot be read: No such file"):
        read_scenario(tmp_path / "s.yaml")


def test_recorded_times_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("soon\n")
    with pytest.raises(InvalidSpec, match=r"load: .*t\.txt cannot be read: could not convert"):
        parsed("requests: [{model: m}]\nload: {recorded: t.txt}", tmp_path)


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (Scenario("", (Asked("m"),)), "no server is named"),
        (Scenario("http://h:1", (Asked("m"),), streaming=True), "streams are a matter of gRPC"),
        (Scenario("grpc://h:1", (Asked("m"),), streaming=True, driver="triton"), "streams are a matter of gRPC and of the driver raw"),
        (Scenario("grpc://h:1", (Asked("m", encoding="json"),)), "JSON is a matter of REST"),
    ],
)
def test_contradictions_are_told(scenario: Scenario, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        scenario.address()


def test_a_stream_to_a_bare_address_is_grpc() -> None:
    assert Scenario("h:1", (Asked("m"),), streaming=True).address().protocol == "grpc"


@pytest.mark.parametrize(
    ("asked", "label"), [(Asked("m"), "m"), (Asked("m", "2", batch_size=8), "m/2 x8"), (Asked("m", name="mine"), "mine")]
)  # fmt: skip
def test_a_row_of_the_report_has_a_name(asked: Asked, label: str) -> None:
    assert asked.label == label


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_scenarios_that_we_ship_are_valid(file: Path) -> None:
    assert read_scenario(file).name
    assert not list(VALIDATOR.iter_errors(Document(file.name, file.read_text()).data))


def test_the_schema_beside_them_is_up_to_date() -> None:
    stored = json.loads((SCENARIOS / "scenario.schema.json").read_text())
    assert stored == scenario_schema(), "run: serving bench schema > benchmarks/scenarios/scenario.schema.json"


def test_the_schema_is_one_takes_what_we_take_and_describes_every_word() -> None:
    schema = scenario_schema()
    VALIDATOR.check_schema(schema)
    assert not list(VALIDATOR.iter_errors(Document("f", FULL).data))
    assert list(VALIDATOR.iter_errors({"requests": [{"model": "m", "size": 3}]}))
    faces: dict[str, Any] = {"top": schema, **schema["$defs"]}
    assert set(faces) == {"top", "Request", "Load", "Ramp", "Step"}
    for face in faces.values():
        assert face["additionalProperties"] is False
        for name, word in face["properties"].items():
            assert word.get("description"), name
    assert set(schema["properties"]) == set(ScenarioFace.model_fields)
