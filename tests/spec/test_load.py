from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from serving.hosting import BatchPolicy, HostPlan, SequencePolicy
from serving.plan import EngineSettings, Target, Webhook
from serving.routing import Route, Rule, Shadow, Share, Sticky, Traffic
from serving.spec import InvalidSpec, Source, load, parse
from serving.state import GatewayLimits
from serving.tensor import DType, Signature, TensorSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.pt2", "b.pt2", "a.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "net.py").write_text("class Mlp: ...\n")
    return tmp_path


def parsed(folder: Path, text: str) -> Target:
    return parse([Source("f.yaml", text, folder)])


FULL = """
gateways: 2
edge: always
server_name: vision
limits: {max_header_kb: 32, max_body_mb: 16, request_timeout_s: 5}
models:
  mlp:
    description: small
    versions:
      10: {artefact: a.pt2, description: bigger}
      9:
        artefact: ./sub/../net.py
        runtime: torch
        entry: Mlp
        weights: w.safetensors
        options: {width: 2, names: [a, b], deep: {x: null}}
        batching: {max_delay_ms: 2.5}
        execution: inline
        replicas: 3
        resources: {gpus: 0.5, labels: {zone: b}}
        warm_up: {batch_sizes: [1]}
        signature:
          inputs: [{name: x, dtype: FP32, shape: [64]}, {name: m, dtype: BOOL, shape: [-1], optional: true}]
          outputs: [{name: y, dtype: FP32, shape: [2], labels: [cat, dog]}]
    traffic: {stable: 9}
    at_most_once: true
    batching: {max_batch_size: 64, max_queue_requests: 10, max_queue_mb: 2, timeout_ms: 100, max_streams: 3}
    resources: {cpus: 2, threads: 4, labels: {zone: a, disk: ssd}}
    warm_up: {batch_sizes: [1, 64]}
"""


def test_a_file_becomes_a_target(folder: Path) -> None:
    target = parsed(folder, FULL)
    limits = GatewayLimits(
        max_header_bytes=32 << 10, max_body_bytes=16 << 20, max_json_bytes=16 << 20, max_inflight_bytes=2 << 30, request_timeout_s=5
    )
    assert target.settings == EngineSettings(2, "always", "vision", limits)
    assert target.routes.routes == {"mlp": Route("mlp", "9", ("9", "10"), at_most_once=True)}
    assert target.routes.revision == 0
    assert target.descriptions == {"mlp": "small", "mlp/10": "bigger"}
    nine, ten = target.deployments
    assert (nine.key, ten.key) == ("mlp/9", "mlp/10")
    assert nine.plan.batching == BatchPolicy(64, 0.0025, 10, 2 << 20, 0.1, "inline", isolate=False, max_streams=3)
    assert ten.plan.batching == BatchPolicy(64, 0.0, 10, 2 << 20, 0.1, "thread", isolate=False, max_streams=3)
    assert nine.plan.signature == Signature(
        (TensorSpec("x", DType.FP32, (64,)), TensorSpec("m", DType.BOOL, (-1,), optional=True)),
        (TensorSpec("y", DType.FP32, (2,), labels=("cat", "dog")),),
        64,
    )
    assert ten.plan.signature is None
    assert (nine.plan.artefact, nine.plan.runtime, nine.plan.entry) == (str(folder / "net.py"), "torch", "Mlp")
    assert (ten.plan.artefact, ten.plan.runtime, ten.plan.entry) == (str(folder / "a.pt2"), "torch", "")
    assert nine.plan.weights == str(folder / "w.safetensors")
    assert nine.plan.options == {"width": 2, "names": ["a", "b"], "deep": {"x": None}}
    assert (nine.plan.warm_up, ten.plan.warm_up) == ((1,), (1, 64))
    assert (nine.replicas, nine.cpus, nine.gpus, nine.plan.threads, nine.labels) == (3, 2, 0.5, 4, {"zone": "b"})
    assert (ten.replicas, ten.cpus, ten.gpus, ten.plan.threads, ten.labels) == (1, 2, 0, 4, {"zone": "a", "disk": "ssd"})


def test_a_target_from_yaml_comes_back_from_json(folder: Path) -> None:
    target = parsed(folder, FULL)
    assert Target.from_json(json.loads(json.dumps(target.to_json()))) == target


def test_what_is_left_out_is_what_the_engine_has_as_default(folder: Path) -> None:
    target = parsed(folder, "models: {m: {versions: {7: {artefact: a.pt2}}}}")
    (only,) = target.deployments
    assert target.settings == EngineSettings()
    assert only.plan.batching == BatchPolicy()
    assert (only.replicas, only.cpus, only.gpus, only.accelerator_type, only.labels, only.plan.threads) == (1, 1.0, 0.0, "", {}, 1)
    assert target.routes.routes == {"m": Route("m", "7", ("7",))}


def test_the_digest_follows_the_contents_of_artefact_and_weights(folder: Path) -> None:
    def digest() -> str:
        text = "models: {m: {versions: {1: {artefact: net.py, runtime: torch, entry: Mlp, weights: w.safetensors}}}}"
        return parsed(folder, text).deployments[0].digest

    first = digest()
    assert first == "+".join(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("net.py", "w.safetensors"))
    (folder / "net.py").touch()
    assert digest() == first
    (folder / "w.safetensors").write_bytes(b"other")
    assert digest() != first


@pytest.mark.parametrize(
    ("limits", "json_mb", "inflight_mb"),
    [("{max_body_mb: 8}", 8, 2048), ("{max_body_mb: 4096}", 64, 4096), ("{max_json_mb: 1, max_inflight_mb: 1024}", 1, 1024)],
)
def test_limits_that_are_left_out_make_room_for_the_body(folder: Path, limits: str, json_mb: int, inflight_mb: int) -> None:
    settings = parsed(folder, f"limits: {limits}\nmodels: {{}}").settings
    assert (settings.limits.max_json_bytes >> 20, settings.limits.max_inflight_bytes >> 20) == (json_mb, inflight_mb)


@pytest.mark.parametrize("stable", ["2", "'2'", '"2"'])
def test_a_version_may_be_written_as_a_number_or_as_text(folder: Path, stable: str) -> None:
    text = f"models: {{m: {{versions: {{1: {{artefact: a.pt2}}, '2': {{artefact: b.pt2}}}}, traffic: {{stable: {stable}}}}}}}"
    assert parsed(folder, text).routes.routes["m"] == Route("m", "2", ("1", "2"))


TRAFFIC = """
models:
  m:
    versions: {1: {artefact: a.pt2}, 2: {artefact: b.pt2}, 10: {artefact: a.pt2}}
    traffic:
      stable: 1
      split: {2: 4.99, 1: 95.01, 10: 0}
      sticky: {header: X-User}
      rules:
        - {header: X-Tester, equals: "yes", version: 2}
        - {parameter: Land, matches: "d.*", version: 10}
      shadow:
        - {version: 10, percent: 0.5, max_inflight_mb: 1}
"""


def test_traffic_becomes_a_route(folder: Path) -> None:
    target = parsed(folder, TRAFFIC)
    assert target.routes.routes["m"].traffic == Traffic(
        (Share("1", 9501), Share("2", 499), Share("10", 0)),
        Sticky("header", "x-user"),
        (Rule("2", "header", "x-tester", "equals", "yes"), Rule("10", "parameter", "Land", "matches", "d.*")),
        (Shadow("10", 50, max_inflight_bytes=1 << 20),),
    )
    assert Target.from_json(json.loads(json.dumps(target.to_json()))) == target


@pytest.mark.parametrize(
    ("yaml", "sticky"), [("{address: true}", Sticky("address")), ("{parameter: Session}", Sticky("parameter", "Session"))]
)
def test_callers_are_known_by_their_address_or_a_parameter(folder: Path, yaml: str, sticky: Sticky) -> None:
    target = parsed(folder, TRAFFIC.replace("{header: X-User}", yaml))
    assert target.routes.routes["m"].traffic.sticky == sticky


def test_no_models_at_all_has_to_be_said(folder: Path) -> None:
    assert parsed(folder, "models: {}").deployments == ()


def test_several_files_are_one_declaration_each_with_its_own_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.pt2").write_bytes(b"another")
    (folder / "engine.yaml").write_text("gateways: 3\n")
    (folder / "m.yaml").write_text("edge: off\nmodels: {m: {versions: {1: {artefact: a.pt2}}}}\n")
    (folder / "sub" / "n.yaml").write_text("\ufeffmodels: {n: {versions: {1: {artefact: a.pt2}}}}\n", encoding="utf-8")
    target = load([folder / "engine.yaml", folder / "m.yaml", folder / "sub" / "n.yaml"])
    assert (target.settings.gateways, target.settings.edge) == (3, "off")
    assert [d.plan.artefact for d in target.deployments] == [str(folder / "a.pt2"), str(folder / "sub" / "a.pt2")]


def test_a_relative_file_gives_absolute_artefacts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "m.yaml").write_text("models: {m: {versions: {1: {artefact: a.pt2}}}}\n")
    monkeypatch.chdir(folder)
    assert load(["m.yaml"]).deployments[0].plan.artefact == str(folder / "a.pt2")


def test_files_that_cannot_be_read_and_wrong_ones_are_told_together(folder: Path) -> None:
    (folder / "latin.yaml").write_bytes("models: {}\n# Gr\xfc\xdfe\n".encode("latin-1"))
    (folder / "wrong.yaml").write_text("gateways: 0\nmodels: {}\n")
    with pytest.raises(InvalidSpec) as raised:
        load([folder / "none.yaml", folder / "latin.yaml", folder, folder / "wrong.yaml"])
    assert raised.value.message.replace(str(folder), "FOLDER").split("\n") == [
        "FOLDER/none.yaml:1:1: cannot be read: No such file or directory",
        "FOLDER/latin.yaml:2:5: not UTF-8 text",
        "FOLDER:1:1: cannot be read: Is a directory",
        "FOLDER/wrong.yaml:1:11: gateways: expected at least 1, got 0",
    ]


def test_of_a_file_that_cannot_be_read_nothing_else_is_said(folder: Path) -> None:
    with pytest.raises(InvalidSpec) as raised:
        load([folder / "none.yaml"])
    assert [p.message for p in raised.value.problems] == ["cannot be read: No such file or directory"]


def test_no_files_declare_nothing() -> None:
    with pytest.raises(InvalidSpec, match="declares no models"):
        load([])


def test_a_class_may_be_imported_or_assigned_in_the_file(folder: Path) -> None:
    (folder / "net.py").write_text("from lib import Shared\nif True:\n    Chosen = Shared\nPATTERN = '\\d'\n")
    for entry in ("Shared", "Chosen"):
        parsed(folder, f"models: {{m: {{versions: {{1: {{artefact: net.py, runtime: python, entry: {entry}}}}}}}}}")
    (folder / "net.py").write_text("from lib import *\n")
    parsed(folder, "models: {m: {versions: {1: {artefact: net.py, runtime: python, entry: Anything}}}}")


def test_a_class_named_model_needs_no_entry(folder: Path) -> None:
    (folder / "net.py").write_text("class Other: ...\nclass Model: ...\n")
    target = parsed(folder, "models: {m: {versions: {1: {artefact: net.py, runtime: python}}}}")
    assert target.deployments[0].plan.entry == "Model"


def test_sequences_are_inherited_key_by_key(folder: Path) -> None:
    text = """
models:
  m:
    sequence: {max_idle_s: 5}
    traffic: {stable: 1}
    signature: {inputs: [{name: x, dtype: FP32, shape: [1]}], outputs: [{name: y, dtype: FP32, shape: [1]}]}
    versions:
      1: {artefact: net.py, runtime: python, entry: Mlp}
      2: {artefact: net.py, runtime: python, entry: Mlp, sequence: {max_sequences: 7}}
"""
    one, two = (d.plan for d in parsed(folder, text).deployments)
    assert one.sequence == SequencePolicy(5.0, 1024)
    assert two.sequence == SequencePolicy(5.0, 7)
    assert HostPlan.from_json(json.loads(json.dumps(HostPlan((one, two)).to_json()))).versions == (one, two)


def test_webhooks_come_with_one_secret_each_and_once() -> None:
    text = "webhooks: [{url: 'https://ops.example/x', secret_env: S, kinds: [rollback]}, {url: 'http://b/', secret_file: /s}]\nmodels: {}\n"
    hooks = parse([Source("f.yaml", text, Path("."))]).settings.webhooks
    assert hooks == (Webhook("https://ops.example/x", "S", "", ("rollback",)), Webhook("http://b/", "", "/s"))
    wrong = "webhooks: [{url: 'http://b/'}, {url: 'http://b/', secret_file: /s, secret_env: S}]\nmodels: {}\n"
    with pytest.raises(InvalidSpec) as raised:
        parse([Source("f.yaml", wrong, Path("."))])
    assert [p.message for p in raised.value.problems] == [
        "webhooks[0]: expected secret_env or secret_file, neither is given; nothing is sent unsigned",
        "webhooks[1]: expected secret_env or secret_file, both are given",
        "webhooks[1].url is that of webhooks[0] already",
    ]
