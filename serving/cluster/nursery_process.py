"""NurseryProcess: the nursery as the engine sees it: started with the raylet, asked whether it lives, replaced where it does not.

Without one a worker starts itself, 3 to 7 s of CPU later; with one that hangs it waits for two minutes first. So it is looked after.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from serving.cluster import worker
from serving.cluster.vigil import call_on

HERE = hasattr(os, "pidfd_open")
"""Whether this system can have one."""
PADDING = "-" * 200
"""An argument that says nothing: the title of a process has the room of its command line."""


class NurseryProcess:
    """preloads: see nursery.py. raylet: the pid of the raylet with which it ends. log: file for what it prints."""

    def __init__(self, preloads: list[str], raylet: int, log: Path) -> None:
        self._preloads = preloads
        self._raylet = raylet
        self._log = log
        self._process = self._start()

    def ask(self) -> None:
        """Return when it has taken a call. Raises Unavailable where it does not: it may still be starting."""
        call_on(Path(os.environ[worker.SOCKET]), socket.SOCK_SEQPACKET)

    def replace(self) -> None:
        """Start another one. What the old one has forked goes on."""
        self.end()
        Path(os.environ[worker.SOCKET]).unlink(missing_ok=True)
        self._process = self._start()

    def end(self) -> None:
        self._process.kill()  # it may be stopped, and has nothing to put in order
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start it with what Ray gives to its workers: its C++ reads these while it is imported."""
        own = {"RAY_RAYLET_PID": str(self._raylet), "RAY_JOB_ID": worker.FIRST_JOB, "RAY_CLIENT_MODE": "0"}
        with self._log.open("ab") as words:
            return subprocess.Popen(
                [sys.executable, "-m", "serving.cluster.nursery", *self._preloads, PADDING],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                env={**os.environ, **own},
            )
