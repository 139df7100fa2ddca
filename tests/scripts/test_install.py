from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+$")

# Stands for .venv/bin/python: knows its version and torch's, and notes what pip was asked for.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  -V) echo Python 3.11.7 ;;
  -c*) echo "${TORCH:-0}" ;;
  *) echo "$*" >> calls ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose .venv has a Python that only notes its calls."""
    (tmp_path / "scripts").mkdir()
    for name in ("install", "constraints.txt"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def install(clone: Path, *extras: str, **env: str) -> list[str]:
    """Run it from another directory; return the calls of pip."""
    calls = clone / "calls"
    calls.unlink(missing_ok=True)
    subprocess.run([str(clone / "scripts" / "install"), *extras], check=True, cwd="/", env={**os.environ, **env}, capture_output=True)
    return calls.read_text().splitlines() if calls.exists() else []


def test_torch_comes_first_from_the_index_of_the_cpu_build(clone: Path) -> None:
    torch, rest = install(clone, "samples")
    assert torch.endswith("--extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0")
    assert "--no-deps" in torch
    assert rest.endswith("install -c scripts/constraints.txt -e .[samples]")


def test_torch_that_is_there_is_not_touched(clone: Path) -> None:
    (rest,) = install(clone, TORCH="2.13.0")
    assert rest.endswith("-e .")


def test_nothing_happens_when_nothing_has_changed(clone: Path) -> None:
    assert install(clone, "samples", "test")
    assert install(clone) == []
    assert install(clone, "test", "samples") == []


def test_a_new_extra_is_added_to_those_that_were_there(clone: Path) -> None:
    install(clone, "test")
    assert install(clone, "samples")[-1].endswith(".[samples,test]")


@pytest.mark.parametrize("file", ["pyproject.toml", "scripts/constraints.txt"])
def test_a_change_installs_again(clone: Path, file: str) -> None:
    install(clone)
    with (clone / file).open("a") as text:
        text.write("# changed\n")
    assert install(clone)


def test_a_failure_leaves_no_stamp(clone: Path) -> None:
    python = clone / ".venv" / "bin" / "python"
    python.write_text(PYTHON.replace('echo "$*" >> calls', "exit 1"))
    with pytest.raises(subprocess.CalledProcessError):
        install(clone)
    python.write_text(PYTHON)
    assert install(clone)


def test_constraints_are_exact_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not PIN.match(line)] == []
    assert "torch==2.13.0" in lines
