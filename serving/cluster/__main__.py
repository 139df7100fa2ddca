"""The process that `serving up` becomes: `python -m serving.cluster BOOT.json`. Starts Ray, then the engine on it, and ends both."""

from __future__ import annotations

import logging
import os
import sys
import threading
from importlib import import_module
from pathlib import Path

from serving import telemetry
from serving.cluster import leftovers, local_ray
from serving.cluster.boot import TAG, Boot
from serving.cluster.preload import preloads
from serving.cluster.session import Session
from serving.errors import ServingError

ENGINE = "serving.cluster.engine"
"""Imported by name, in a thread: it brings Serve and all our rooms with it, 2 s of CPU that pass while Ray starts."""


def main(boot_file: str) -> int:
    boot = Boot.from_json(Path(boot_file).read_text())
    session = Session(boot)
    telemetry.log_to_stderr(logging.WARNING)
    telemetry.prune(boot.logs)
    ahead = threading.Thread(target=import_module, args=(ENGINE,))
    ahead.start()
    try:
        _start_ray(session)
        ahead.join()
        ended: int = import_module(ENGINE).serve(session)
    except ServingError as error:
        session.say(f"error: {error.message}")
        ended = 1
    finally:
        _end(boot)
    session.say("stopped")
    return ended


def _start_ray(session: Session) -> None:
    boot = session.boot
    session.listen()
    if boot.ray_address:
        session.say(f"connecting to Ray at {boot.ray_address}")
        local_ray.connect(boot.ray_address)
    else:
        session.say("starting Ray")
        local_ray.start(Path(boot.run_dir), preloads(boot.target()))
    session.listen()  # ray.init has put a handler of its own in place
    telemetry.log_to_file(boot.logs, "engine", logging.WARNING, ("ray", "ray.serve"))
    session.say("Ray is up")


def _end(boot: Boot) -> None:
    """Leave no process and no file of this run behind, whatever has happened before."""
    if not boot.ray_address:
        local_ray.stop()
        if left := leftovers.outlast(TAG, boot.engine, 3.0):
            logging.getLogger(__name__).warning("%d processes had to be killed", len(left))
    leftovers.remove(Path(boot.run_dir))


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of Ray's that still try to reach it would hold the exit up
