"""The process that `serving up` becomes: `python -m serving.cluster BOOT.json`. Starts Ray, then the engine on it, and ends both.

Where Ray ends by itself, it becomes the next engine (`launch.next_life`): same pid, same ports, last revision.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from serving import telemetry
from serving.cluster import launch, leftovers, local_ray
from serving.cluster.boot import TAG, Boot
from serving.cluster.preload import preloads
from serving.cluster.session import Session
from serving.cluster.vigil import Ended
from serving.errors import ServingError

ENGINE = "serving.cluster.engine"
"""Imported by name, in a thread: it brings Serve and all our rooms with it, 2 s of CPU that pass while Ray starts."""
LEAVE_S = 3.0
"""For processes to end by themselves when Ray has."""


def main(boot_file: str) -> int:
    boot = Boot.from_json(Path(boot_file).read_text())
    session = Session(boot)
    telemetry.log_to_stderr(logging.WARNING)
    telemetry.prune(boot.logs)
    ahead = threading.Thread(target=import_module, args=(ENGINE,))
    ahead.start()
    again = None
    lost = False
    try:
        _start_ray(session)
        ahead.join()
        ended: int = import_module(ENGINE).serve(session)
    except Ended as error:
        session.say(f"error: {error.message}")
        ended = 1
        lost = True
        again = launch.next_life(session.boot, session.lived_s)
    except ServingError as error:
        session.say(f"error: {error.message}")
        ended = 1
    finally:
        _end(boot, lost)
    if again is not None and not session.stop_asked.is_set():
        session.say("starting again")
        _begin_again(session, again)
    session.say("stopped")
    return ended


def _begin_again(session: Session, again: Boot) -> None:
    try:
        launch.become(replace(again, run_dir=str(launch.run_dir(Path(again.state_dir), launch.places()))))
    except (OSError, ServingError) as error:
        session.say(f"error: {error}")


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


def _end(boot: Boot, lost: bool) -> None:
    """Leave no process and no file of this run behind, whatever has happened before. lost: Ray has ended by itself, or hangs."""
    if lost:
        leftovers.kill(TAG, boot.engine)  # nobody is left to drain to, and a question to Ray may have no answer
        _bury()
    elif not boot.ray_address:
        local_ray.stop()
        if left := leftovers.outlast(TAG, boot.engine, LEAVE_S):
            logging.getLogger(__name__).warning("%d processes had to be killed", len(left))
    leftovers.remove(Path(boot.run_dir))


def _bury() -> None:
    """Take the exit codes of children that were killed: whoever goes on in this process would never ask for them."""
    end = time.monotonic() + LEAVE_S
    while time.monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(0.01)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of Ray's that still try to reach it would hold the exit up
