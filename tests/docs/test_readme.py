"""Runs what the README tells people to run: the quickstart, then each block, on ports of the test's own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.peers.port import free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
USUAL = {"http": 8000, "grpc": 8001, "metrics": 8002, "control": 8003}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "serving/README.md", "benchmarks/README.md"])
def test_a_blank_line_stands_before_each_heading(file: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / file).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^#", text, re.MULTILINE)
    assert re.findall(r"[^\n]\n(#{1,6} .*)", text) == []


def test_the_example_of_an_own_model_is_valid(tmp_path: Path) -> None:
    block, _ = blocks("yaml")
    samples = [sys.executable, str(ROOT / "scripts" / "samples.py"), "digits"]
    subprocess.run(samples, check=True, stdout=subprocess.DEVNULL, timeout=300)
    shutil.copy(ROOT / "artefacts" / "digits" / "1" / "model.pt2", tmp_path / "model.pt2")
    (tmp_path / "mine.yaml").write_text(block)
    found = subprocess.run([_serving(), "validate", str(tmp_path / "mine.yaml")], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_example_of_traffic_is_valid(tmp_path: Path) -> None:
    _, block = blocks("yaml")
    versions = "".join(f"      {v}: {{artefact: model.pt2}}\n" for v in (1, 2, 3))
    (tmp_path / "model.pt2").write_bytes(b"a stand-in")
    (tmp_path / "mine.yaml").write_text(f"models:\n  mine:\n    versions:\n{versions}{block}")
    found = subprocess.run([_serving(), "validate", str(tmp_path / "mine.yaml")], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[int, int], list[str]]]:
    """The quickstart on free ports; yields usual port → port, and what it has said."""
    ports = dict(zip(USUAL, free_ports(len(USUAL)), strict=True))
    command = [str(ROOT / "scripts" / "quickstart"), "--state-dir", str(tmp_path_factory.mktemp("state"))]
    for name, port in ports.items():
        command += [f"--{name}-port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    lines: list[str] = []
    up = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "The engine stays up" in line:
                up.set()
        up.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert up.wait(300), "".join(lines)
        assert process.poll() is None, "".join(lines)
        yield {USUAL[name]: port for name, port in ports.items()}, lines
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(120)
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()
    assert code == 0, "".join(lines)


@pytest.fixture(scope="module")
def engine(quickstart: tuple[dict[int, int], list[str]]) -> dict[int, int]:
    """Usual port → port of the quickstart."""
    return quickstart[0]


@pytest.mark.cluster
def test_the_quickstart_asks_over_both_protocols(quickstart: tuple[dict[int, int], list[str]]) -> None:
    said = "".join(quickstart[1])
    assert "all 360" in said
    assert "all right" in said


@pytest.mark.cluster
def test_the_commands_answer(engine: dict[int, int]) -> None:
    install, ask, _ = blocks("bash")
    assert "scripts/quickstart" in install
    script = _with_ports(ask, engine).replace(".venv/bin/serving status", f"{_serving()} status")
    environment = {**os.environ, "SERVING_CONTROL_URL": f"http://127.0.0.1:{engine[8003]}"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=90, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"name":"digits"' in done.stdout
    assert '"outputs":[' in done.stdout
    assert "ready" in done.stdout


@pytest.mark.cluster
def test_the_load_tester_measures_it(engine: dict[int, int], tmp_path: Path) -> None:
    _, _, measure = blocks("bash")
    script = _with_ports(measure, engine).replace(".venv/bin/serving", _serving())
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "before.json").read_text())["errors"] == 0
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.cluster
def test_the_python_client_answers(engine: dict[int, int]) -> None:
    (block,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", _with_ports(block, engine)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[")


def _with_ports(text: str, ports: dict[int, int]) -> str:
    for usual, port in ports.items():
        text = text.replace(f"localhost:{usual}", f"127.0.0.1:{port}")
    return text


def _serving() -> str:
    return str(Path(sys.executable).parent / "serving")
