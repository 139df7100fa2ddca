"""Sequences in a real engine: scaled up and down while they are live, and their replica killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException

from tests.cluster.running import RunningEngine, wait

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
SOURCE = """
import os

import numpy as np


class Sum:
    def predict(self, inputs, sequences):
        rows = []
        for x, s in zip(inputs["x"][:, 0], sequences):
            s.state["sum"] = s.state.get("sum", 0) + int(x)
            rows.append([s.state["sum"], os.getpid()])
        return {"y": np.array(rows, np.int64)}
"""
IDS = [f"user-{n}" for n in range(24)]


def declare(folder: Path, replicas: int) -> Path:
    """Write the model on so many replicas."""
    (folder / "sum.py").write_text(SOURCE)
    model = {
        "versions": {"1": {"artefact": "sum.py", "runtime": "python", "entry": "Sum"}},
        "signature": {
            "inputs": [{"name": "x", "dtype": "INT64", "shape": [1]}],
            "outputs": [{"name": "y", "dtype": "INT64", "shape": [2]}],
        },
        "batching": {"max_batch_size": 8},
        "sequence": {"max_idle_s": 300},
        "replicas": replicas,
        "resources": {"cpus": 0.1},
    }
    file = folder / "sum.yaml"
    file.write_text(json.dumps({"gateways": 2, "models": {"sum": model}}))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RunningEngine]:
    with RunningEngine(folder / "state", declare(folder, 2)) as running:
        yield running


def ask(engine: RunningEngine, id: str, start: bool = False, end: bool = False) -> tuple[int, int]:
    """Add 1 on a connection of its own, which any gateway may get; return the sum and who answered."""
    x = thttp.InferInput("x", [1, 1], "INT64")
    x.set_data_from_numpy(np.ones((1, 1), np.int64))
    with thttp.InferenceServerClient(f"127.0.0.1:{engine.http}") as client:
        total, process = client.infer("sum", [x], sequence_id=id, sequence_start=start, sequence_end=end).as_numpy("y")[0]
    return int(total), int(process)


def test_sequences_outlive_a_scale_up_and_are_started_again_where_their_replica_was_killed(engine: RunningEngine, folder: Path) -> None:
    homes = {id: ask(engine, id, start=True)[1] for id in IDS}
    assert len(set(homes.values())) == 2
    for total in (2, 3):
        assert {id: ask(engine, id) for id in IDS} == {id: (total, home) for id, home in homes.items()}

    assert engine.serving("apply", str(declare(folder, 3))).returncode == 0
    fresh = iter(range(100_000))
    wait(lambda: ask(engine, f"new-{next(fresh)}", start=True, end=True)[1] not in homes.values(), 120)
    for total in (4, 5):
        assert {id: ask(engine, id) for id in IDS} == {id: (total, home) for id, home in homes.items()}

    victim = homes[IDS[0]]
    os.kill(victim, signal.SIGKILL)
    for id, home in homes.items():
        if home == victim:
            with pytest.raises(InferenceServerException, match="START flag"):
                ask(engine, id)
            total, now = ask(engine, id, start=True)
            assert total == 1
            assert now != victim
            assert ask(engine, id) == (2, now)
        else:
            assert ask(engine, id) == (6, home)

    assert engine.serving("apply", str(declare(folder, 1))).returncode == 0
    wait(lambda: len({ask(engine, f"new-{next(fresh)}", start=True, end=True)[1] for _ in range(10)}) == 1, 120)
    ids = [f"last-{n}" for n in range(12)]
    for id in ids:
        total, _ = ask(engine, id, start=True)
        assert total == 1
    assert {ask(engine, id, end=True)[0] for id in ids} == {2}
