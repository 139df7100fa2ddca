"""RunningEngine: `serving up` as a child process, on free ports, with its own state directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.peers.port import free_ports
from serving.cluster import leftovers
from serving.cluster.boot import TAG

START_S = 240.0
"""These tests may share a busy machine; how fast an engine starts is measured elsewhere."""
ENGINE_MODEL = '''
import time, os
import numpy as np

class Echo:
    """Gives back its input; `process` tells who answered."""
    def load(self):
        if os.path.exists(__file__ + ".broken"):
            raise RuntimeError("the weights are not there")
    def predict(self, inputs):
        return {"y": inputs["x"], "process": np.full((len(inputs["x"]), 1), os.getpid(), np.int64)}
'''


def write_model(folder: Path, name: str, versions: str = "1", broken: bool = False, **words: Any) -> Path:
    """Write a YAML file with one model of the class above, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(ENGINE_MODEL)
    if broken:
        (folder / f"{name}.py.broken").touch()
    model = {
        "versions": {v: {"artefact": f"{name}.py", "runtime": "python", "entry": "Echo"} for v in versions.split()},
        "signature": {
            "inputs": [{"name": "x", "dtype": "FP32", "shape": [4]}],
            "outputs": [{"name": "y", "dtype": "FP32", "shape": [4]}, {"name": "process", "dtype": "INT64", "shape": [1]}],
        },
        "batching": {"max_batch_size": 8},
        **words,
    }
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps({"models": {name: model}}))
    return file


class RunningEngine:
    """Ends with `stop`, or with the test that forgot to."""

    def __init__(self, state_dir: Path, *files: Path | str, ports: list[int] | None = None) -> None:
        self.state_dir = state_dir
        self.http, self.grpc, self.metrics, self.control = ports or free_ports(4)
        self.lines: list[str] = []
        options = [f"--http-port={self.http}", f"--grpc-port={self.grpc}", f"--metrics-port={self.metrics}"]
        options += [f"--control-port={self.control}", f"--state-dir={state_dir}"]
        self.process = subprocess.Popen(
            [*SERVING, "up", *map(str, files), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.tag = ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip())

    def wait_ready(self, times: int = 1) -> str:
        """Return the ready line of the engine, with `times` that of the one that followed when its Ray had ended."""
        wait(
            lambda: len(self._ready_lines()) >= times or self.process.poll() is not None,
            START_S,
            "\n".join(self.lines[-5:]),
        )
        found = self._ready_lines()
        assert len(found) >= times, "\n".join(self.lines)
        self.tag = json.loads((self.run_dir / "boot.json").read_text())["engine"]
        return found[-1]

    def _ready_lines(self) -> list[str]:
        return [line for line in self.lines if " ready http" in line]

    @property
    def run_dir(self) -> Path:
        return Path((self.state_dir / "run").read_text())

    def processes(self, title: str = "") -> list[int]:
        """Return the pids of the engine's processes whose title has this text, `up` itself left out."""
        return [p for p in leftovers.processes(TAG, self.tag) if title in _title(p) and p != self.process.pid]

    def serving(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that talks to this engine."""
        environment = {**os.environ, "SERVING_CONTROL_URL": f"http://127.0.0.1:{self.control}"}
        return subprocess.run([*SERVING, *words], capture_output=True, text=True, env=environment, timeout=START_S, check=False)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.control}/api/status").json()
        return answer

    def predict(self, model: str, version: str = "", timeout_s: float = 60.0) -> httpx.Response:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
        at = f"/versions/{version}" if version else ""
        return httpx.post(f"http://127.0.0.1:{self.http}/v2/models/{model}{at}/infer", json=body, timeout=timeout_s)

    def answering_process(self, model: str) -> int:
        """Return the pid of a replica that answers, -1 where none does."""
        answer = self.predict(model)
        if answer.status_code != 200:
            return -1
        return int(next(o["data"][0] for o in answer.json()["outputs"] if o["name"] == "process"))

    def refusal(self) -> str:
        """Return what it said when it ended at once with exit code 1."""
        assert self.process.wait(60) == 1
        self._reader.join(5)
        return "\n".join(self.lines)

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as Ctrl-C would; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(120)
        finally:
            self.process.kill()
            leftover = leftovers.kill(TAG, self.tag) if self.tag else []
        self._reader.join(5)
        assert not leftover, "processes were left behind"
        return code


class Asking:
    """Asks a model again and again while the block runs. `failed`: answers that were none; `versions`: who answered, in order."""

    def __init__(self, engine: RunningEngine, model: str) -> None:
        self.failed: list[str] = []
        self.versions: list[str] = []
        self._engine, self._model = engine, model
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                answer = self._engine.predict(self._model)
                if answer.status_code != 200:
                    self.failed.append(f"{answer.status_code} {answer.text}")
                elif self.versions[-1:] != [answer.json()["model_version"]]:
                    self.versions.append(answer.json()["model_version"])
            except httpx.TransportError as error:
                self.failed.append(repr(error))


SERVING = [sys.executable, "-c", "from serving.cli import main; main()"]


def wait(condition: Callable[[], bool], timeout_s: float, what: str = "") -> None:
    """Return when the condition holds; fail when the time is over."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not in {timeout_s:g} s: {what}"
        time.sleep(0.02)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `serving` with these words."""
    return subprocess.run([*SERVING, *words], capture_output=True, text=True, timeout=120, check=False)
