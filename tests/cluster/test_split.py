"""Traffic between versions on a real engine with two gateways: shares over every way, edits under load, blue and green."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.split import WAYS, Doors, Load, band, edit_under_load
from tests.cluster.running import Asking, RunningEngine, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
REQUESTS = 2000
"""Over each way. 100,000: python -m benchmarks.split."""


def declare(folder: Path, **traffic: object) -> Path:
    file = write_model(folder, "m", "1 2", traffic={"stable": 1, **traffic})
    file.write_text(json.dumps({**json.loads(file.read_text()), "gateways": 2}))
    return file


def test_versions_have_their_shares_and_edits_reach_all_gateways_without_a_loss(tmp_path: Path) -> None:
    engine = RunningEngine(tmp_path / "state", declare(tmp_path, split={"1": 95, "2": 5}))
    try:
        engine.wait_ready()
        doors = Doors(*(f"127.0.0.1:{port}" for port in (engine.http, engine.grpc, engine.control)))
        low, high = band(REQUESTS, 0.05)
        for way in WAYS:
            found = asyncio.run(Load(doors, "m").count(way, REQUESTS))
            assert (found.failed, found.versions.total()) == ([], REQUESTS)
            assert low <= found.versions["2"] <= high, way

        edits = asyncio.run(edit_under_load(doors, "m", 6, 300.0))
        assert (edits.late, edits.load.failed) == ([], [])
        assert edits.load.versions.keys() == {"1", "2"}  # how many each had depends on how fast the edits were

        assert {v["version"]: v["traffic"] for v in engine.status()["versions"]} == {"1": "95 %", "2": "5 %"}

        pids = engine.processes("replica")
        for stable in (1, 2, 1):
            with Asking(engine, "m") as asking:
                done = engine.serving("apply", str(declare(tmp_path, stable=stable)))
                assert done.returncode == 0, done.stderr
                assert {engine.predict("m").json()["model_version"] for _ in range(8)} == {str(stable)}
            assert asking.failed == []
        assert engine.processes("replica") == pids
    finally:
        engine.stop()
