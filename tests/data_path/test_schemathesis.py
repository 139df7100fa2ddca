"""Schemathesis holds a gateway against its own /openapi.json: bodies, statuses and content types are what the document says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from .models import plan
from .rig import DataPath

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPath]:
    node = DataPath(edge="off")
    try:
        node.replica(plan(tmp_path_factory.mktemp("models"), node.gate), "r1")
        node.gateway("a")
        yield node
        assert node.faults() == []
    finally:
        node.close()


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")
@pytest.mark.parametrize(
    ("model", "phases", "least"),
    [("marked", "coverage,fuzzing", 400), ("", "fuzzing", 38)],
    ids=["of one model, by its limits", "of names of all kinds, at random"],
)
def test_it_finds_nothing(node: DataPath, tmp_path: Path, model: str, phases: str, least: int) -> None:
    """In a process of its own, since its plug-in makes every start of pytest two seconds longer. The same requests in each run."""
    chosen = f'[parameters]\n"path.model" = "{model}"\n"path.version" = "1"\n\n' if model else ""
    (tmp_path / "schemathesis.toml").write_text(chosen + CONFIG.read_text())
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"http://{node.rest}/openapi.json"]
    options = ["--max-examples=4", "--seed=1", f"--phases={phases}", "--request-timeout=60", "--suppress-health-check=all", "--no-color"]
    done = subprocess.run([*command, *options], capture_output=True, timeout=300, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    asked = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert asked, done.stdout[-2000:]
    assert int(asked[1]) == int(asked[2]) >= least
