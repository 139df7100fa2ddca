"""KServe's SDK as it is, where an environment has it: its messages clash with tritonclient's in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .rig import DataPath

PYTHON = Path(sys.prefix) / "peers" / "kserve" / "bin" / "python"
SCRIPT = Path(__file__).parent / "clients" / "kserve_sdk.py"


@pytest.mark.skipif(not PYTHON.exists(), reason="needs the environment of the peer kserve")
def test_both_clients(path: DataPath) -> None:
    done = subprocess.run([PYTHON, SCRIPT, path.rest, path.grpc], capture_output=True, timeout=150, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    right = {"id": "sdk", "model": "marked", "numbers": [2, 4, 6]}
    for way, texts in (("rest", ("json", "binary")), ("grpc", ("typed", "raw"))):
        told = found[way]
        assert [told[key] for key in ("live", "ready", "model", *texts)] == [True, True, True, right, right]
        assert "Request for unknown model: 'nobody' is not found" in told["unknown"]
    assert found["grpc"]["nobody"] is False
