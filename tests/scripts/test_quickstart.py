"""The quickstart when something goes wrong. Where all goes well, it is the engine of tests/docs/test_readme.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.port import free_ports

FILE = Path(__file__).parents[2] / "scripts" / "quickstart.py"


def quickstart(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the check from a directory that is not the repository's, on free ports."""
    argv = [sys.executable, str(FILE), "--check", "--state-dir", str(tmp_path / "state"), *arguments]
    for name, port in zip(("http", "grpc", "metrics", "control"), free_ports(4), strict=True):
        argv += [f"--{name}-port", str(port)]
    return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=400)


@pytest.mark.cluster
def test_check_ends_with_1_when_the_engine_is_not_ready_in_time(tmp_path: Path) -> None:
    done = quickstart(tmp_path, "--patience", "0.2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed: the engine was not ready after" in done.stdout
