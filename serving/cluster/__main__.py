"""The process that `serving up` becomes: `python -m serving.cluster BOOT.json`. Starts the engine, says when it answers, and ends it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TextIO

from serving import telemetry
from serving.cluster.boot import Boot
from serving.cluster.engine import Engine
from serving.control.store import SqliteStore
from serving.errors import InvalidArgument, ServingError
from serving.plan import Target

TARGET = "target.json"
"""In the run directory: what the YAML files say; not there where the last revision is to run again."""


def main(boot_file: str) -> int:
    boot = Boot.from_json(Path(boot_file).read_text())
    telemetry.log_to_stderr(logging.WARNING)
    telemetry.prune(boot.logs)
    engine = Engine(boot, lambda text: _say(boot, text))
    _take_over(boot, engine)
    _say(boot, "starting Ray" if not boot.ray_address else f"connecting to Ray at {boot.ray_address}")
    try:
        engine.start(_target(boot))
        _take_over(boot, engine)  # ray.init has put its own in place
        status = engine.wait()
        if status is not None:
            failed = status["failed"]
            some = f" · {len(failed)} of {len(status['versions'])} versions failed: {', '.join(failed)}" if failed else ""
            _say(boot, f"ready {boot.urls['rest']} {boot.urls['grpc']} control {boot.urls['control']}{some}", sys.stdout)
            engine.watch()
        _say(boot, "stopping")
    except ServingError as error:
        _say(boot, f"error: {error.message}")
        return 1
    finally:
        engine.stop()
    _say(boot, "stopped")
    return 0


def _target(boot: Boot) -> Target:
    """Return what is to run, kept as a revision."""
    store = SqliteStore(boot.database)
    latest = store.latest()
    file = Path(boot.run_dir) / TARGET
    if file.exists():
        target = Target.from_json(json.loads(file.read_text()))
        if latest is None or latest.target != target:
            store.append(target, "up", "files", time.time())
    elif latest is None:
        raise InvalidArgument(f"nothing to serve: no file was given, and {boot.state_dir} has no earlier revision")
    else:
        target = latest.target
    store.close()
    return target


def _take_over(boot: Boot, engine: Engine) -> None:
    """Make signals and Ray's logs ours."""
    telemetry.log_to_file(boot.logs, "engine", logging.WARNING, ("ray", "ray.serve"))

    def stop(_number: int, _frame: FrameType | None) -> None:
        if engine.stop_asked.is_set():
            engine.hurry.set()
        engine.stop_asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _say(boot: Boot, text: str, out: TextIO = sys.stderr) -> None:
    out.write(f"{time.monotonic() - boot.started:6.1f} s  {text}\n")
    out.flush()


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of Ray's that still try to reach it would hold the exit up
