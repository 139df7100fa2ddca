"""Every file in configs/ is valid, is what an editor checks it against, and declares what others count on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.plan import Target
from serving.spec import InvalidSpec, json_schema, load
from serving.spec.document import Document

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GENERATED = ["digits/1", "digits/2", "imagenet/1"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the files refer to, with stand-ins for the artefacts that scripts make."""
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / "benchmarks" / "models", root / "benchmarks" / "models")
    for name in GENERATED:
        (root / "artefacts" / name).mkdir(parents=True)
        (root / "artefacts" / name / "model.pt2").write_bytes(name.encode())
    return root


def declared(tree: Path, name: str) -> Target:
    return load([tree / "configs" / name])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_file_is_valid_and_fits_the_schema(tree: Path, path: Path) -> None:
    target = declared(tree, path.name)
    assert target.deployments
    jsonschema.Draft202012Validator(json_schema()).validate(Document(path.name, path.read_text()).data)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_file_tells_editors_its_schema_and_people_what_it_is_for(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=serving.schema.json"
    assert (path.parent / "serving.schema.json").is_file()
    assert sum("#" in line for line in lines) >= 5


def test_the_schema_file_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["schema"]).stdout
    assert json.loads(printed) == json_schema()
    assert (ROOT / "configs" / "serving.schema.json").read_text() == printed, "run: serving schema > configs/serving.schema.json"


def test_the_quickstart_serves_two_versions_of_digits(tree: Path) -> None:
    target = declared(tree, "quickstart.yaml")
    route = target.routes.routes["digits"]
    assert (route.versions, route.stable) == (("1", "2"), "2")
    assert {d.plan.batching.max_batch_size for d in target.deployments} == {64}


def test_the_split_shares_the_quickstarts_digits_out_at_95_to_5(tree: Path) -> None:
    target = declared(tree, "split.yaml")
    route = target.routes.routes["digits"]
    assert (route.stable, route.shares) == ("1", {"1": 9500, "2": 500})
    assert {d.key: d.plan.artefact for d in target.deployments} == {
        d.key: d.plan.artefact for d in declared(tree, "quickstart.yaml").deployments
    }
    assert target.settings.gateways == 2


def test_the_benchmark_declares_what_the_measurements_name(tree: Path) -> None:
    target = declared(tree, "benchmark.yaml")
    found = {
        d.plan.model: (d.plan.entry, d.plan.batching.execution, d.plan.signature.inputs[0].shape, d.plan.signature.outputs[0].shape)
        for d in target.deployments
        if d.plan.signature
    }
    assert found == {
        "echo": ("Echo", "inline", (16,), (16,)),
        "mlp": ("Mlp", "inline", (64,), (10,)),
        "resnet": ("ResNet", "thread", (3, 224, 224), (100,)),
    }
    for d in target.deployments:
        assert d.plan.signature is not None
        assert ([t.name for t in d.plan.signature.inputs], [t.name for t in d.plan.signature.outputs]) == (["x"], ["y"])
        assert (d.plan.batching.max_batch_size, d.plan.threads, d.replicas) == (64, 1, 1)
    assert target.settings.gateways == 1


def test_chaos_is_the_benchmarks_mlp_with_two_of_everything(tree: Path) -> None:
    (chaos,) = declared(tree, "chaos.yaml").deployments
    (mlp,) = (d for d in declared(tree, "benchmark.yaml").deployments if d.key == "mlp/1")
    assert chaos.plan == mlp.plan
    assert (chaos.replicas, declared(tree, "chaos.yaml").settings.gateways) == (2, 2)


@pytest.mark.parametrize(
    ("name", "maker"),
    [("quickstart.yaml", "scripts/quickstart"), ("split.yaml", "scripts/quickstart"), ("imagenet.yaml", "scripts/quickstart --imagenet")],
)
def test_a_bare_clone_is_told_what_makes_the_artefacts(tmp_path: Path, name: str, maker: str) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with pytest.raises(InvalidSpec) as raised:
        load([tmp_path / "configs" / name])
    for problem in raised.value.problems:
        assert problem.message.endswith(f"does not exist; {maker} makes it")
