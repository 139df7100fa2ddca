"""Models that cannot be loaded, crash, raise or answer nonsense: the status says so, callers hear so, and nobody else notices."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.running import Asking, RunningEngine, wait, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]

SOURCE = '''
import ctypes
import os
import signal

import numpy as np


class Loads:
    """How it goes wrong at load, while the file `wrong` is there."""

    how = ""

    def load(self):
        if os.path.exists(__file__ + ".wrong"):
            getattr(self, self.how)()

    def exits(self):
        os._exit(3)

    def crashes(self):
        ctypes.string_at(0)

    def is_killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def eats(self):
        self.eaten = [np.ones(1 << 24) for _ in range(100)]  # 128 MB each

    def is_too_large(self):
        self.weights = np.ones((1 << 50,), np.float64)

    def predict(self, inputs):
        return {"y": inputs["x"]}


class Exits(Loads):
    how = "exits"


class Crashes(Loads):
    how = "crashes"


class IsKilled(Loads):
    how = "is_killed"


class Eats(Loads):
    how = "eats"


class TooLarge(Loads):
    how = "is_too_large"


class Moody:
    """Answers according to the first number of the batch."""

    def predict(self, inputs):
        x = inputs["x"]
        match int(x[0, 0]):
            case 1: raise ValueError("one is not a number I like")
            case 2: return {"z": x}
            case 3: return {"y": x[:, :2]}
            case 4: return {"y": x.astype(np.float64)}
            case 5: return None
            case 6: return {"y": np.log(-x)}
            case 7: os.kill(os.getpid(), signal.SIGKILL)
            case 8: return {"y": x[:0]}
            case 9: return {"y": np.ones((1 << 50, 4), np.float32)}
        return {"y": x}


class Misnamed:
    def predict(self, inputs):
        return {"z": inputs["x"]}
'''
LOADS = {"exits": "Exits", "crashes": "Crashes", "is_killed": "IsKilled", "too_large": "TooLarge", "eats": "Eats"}


def write(folder: Path) -> Path:
    """Write one YAML file with all of them."""
    tensor = {"dtype": "FP32", "shape": [4]}
    models = {}
    for name, entry in {**LOADS, "moody": "Moody", "misnamed": "Misnamed"}.items():
        (folder / f"{name}.py").write_text(SOURCE)
        if name in LOADS:
            (folder / f"{name}.py.wrong").touch()
        models[name] = {
            "versions": {"1": {"artefact": f"{name}.py", "runtime": "python", "entry": entry}},
            "signature": {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]},
            "batching": {"max_batch_size": 8},
            "resources": {"memory_mb": 900},
        }
    file = folder / "failing.yaml"
    file.write_text(json.dumps({"models": models}))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RunningEngine]:
    with RunningEngine(folder / "state", write_model(folder, "echo"), write(folder)) as running:
        yield running


def version(engine: RunningEngine, model: str) -> dict[str, Any]:
    found: dict[str, Any] = next(v for v in engine.status()["versions"] if v["model"] == model)
    return found


def ask(engine: RunningEngine, first: float, model: str = "moody") -> httpx.Response:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [first, 1, 1, 1]}]}
    return httpx.post(f"http://127.0.0.1:{engine.http}/v2/models/{model}/infer", json=body, timeout=60)


def test_what_cannot_be_loaded_says_why_since_when_and_when_it_is_tried_again(engine: RunningEngine) -> None:
    reasons = {
        "exits": "the replica's process ended with exit code 3 while it was loading the model",
        "crashes": "the replica's process crashed (SIGSEGV) while it was loading the model",
        "is_killed": "the replica's process was killed (SIGKILL: this machine was out of memory, or somebody killed it)",
        "too_large": "MemoryError: Unable to allocate 8.00 PiB",
        "eats": "MB of memory, and resources.memory_mb is 900",
        "misnamed": "did not return output 'y'",
    }
    for model, reason in reasons.items():
        wait(lambda model=model: version(engine, model)["failures"] >= 2, 120, f"a second try of {model}")  # type: ignore[misc]
        seen = version(engine, model)
        assert seen["state"] == "failed"
        assert reason in seen["reason"]
        assert time.time() - 60 < seen["since"] < seen["next_try"] < time.time() + 60
        refused = ask(engine, 0, model)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    shown = engine.serving("status")
    assert shown.returncode == 1
    assert reasons["crashes"] in shown.stdout
    assert "next try at" in shown.stdout or "trying again" in shown.stdout
    assert ask(engine, 0).status_code == 200


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (1, "ValueError: one is not a number I like"),
        (2, "did not return output 'y'"),
        (3, "has shape [1, 2], but [-1, 4] is declared"),
        (4, "has type float64, but FP32"),
        (5, "returned a NoneType"),
        (8, "the batch has 1 rows"),
        (9, "MemoryError"),
    ],
)
def test_what_goes_wrong_in_a_call_is_the_callers_clear_error(engine: RunningEngine, first: float, words: str) -> None:
    before = engine.processes("moody@1")
    answer = ask(engine, first)
    assert answer.status_code == 500
    assert words in answer.json()["error"]
    assert ask(engine, 0).status_code == 200
    assert engine.processes("moody@1") == before


def test_a_model_goes_before_a_gateway_when_memory_runs_out(engine: RunningEngine) -> None:
    scores = {
        title: {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in engine.processes(f"ray::ServeReplica:{title}")}
        for title in ("echo@1", "gateways", "edge", "controller")
    }
    assert max(scores["gateways"] | scores["edge"] | scores["controller"]) < min(scores["echo@1"])


def test_nan_is_an_answer(engine: RunningEngine) -> None:
    answer = ask(engine, 6)
    assert answer.status_code == 200
    assert all(v is None or math.isnan(v) for v in json.loads(answer.text)["outputs"][0]["data"])


def test_the_status_says_what_goes_wrong_in_calls(engine: RunningEngine) -> None:
    assert ask(engine, 1).status_code == 500
    assert ask(engine, 6).status_code == 200
    wait(lambda: "of its answers had NaN" in version(engine, "moody")["reason"], 30, "NaN is in the status")
    seen = version(engine, "moody")
    assert seen["state"] == "ready"
    assert "the model failed " in seen["reason"]
    assert "ValueError: one is not a number I like" in seen["reason"]
    assert "of its answers had NaN" in engine.serving("status").stdout


def test_a_request_that_kills_its_replica_holds_nobody_else_up_and_starts_are_held_back(engine: RunningEngine) -> None:
    with Asking(engine, "echo") as others:
        wait(lambda: ask(engine, 0).status_code == 200, 120, "moody is there")

        def counted() -> bool:
            assert ask(engine, 7).status_code == 503  # whoever has come up dies of it at once
            return bool(version(engine, "moody")["failures"] >= 2)

        wait(counted, 120, "deaths right after the start are counted")
        seen = version(engine, "moody")
        assert "s after it was ready" in seen["reason"]
        wait(lambda: ask(engine, 0).status_code == 200, 120, "moody is back")
        wait(lambda: version(engine, "moody")["failures"] == 0, 120, "it serves again")
    assert others.failed == []


def test_what_is_mended_comes_up_by_itself_and_at_once_when_it_is_applied(engine: RunningEngine, folder: Path) -> None:
    for model in LOADS:
        (folder / f"{model}.py.wrong").unlink()
    engine.serving("apply", str(folder / "failing.yaml"))
    for model in LOADS:
        wait(lambda model=model: ask(engine, 0, model).status_code == 200, 120, f"{model} answers")  # type: ignore[misc]
    wait(lambda: all(version(engine, model)["state"] == "ready" for model in LOADS), 120, "they are ready")
    assert version(engine, "misnamed")["state"] == "failed"
    (folder / "misnamed.py").write_text(SOURCE.replace('{"z": inputs["x"]}', '{"y": inputs["x"]}'))
    wait(lambda: ask(engine, 0, "misnamed").status_code == 200, 120, "it comes up by itself")
