"""ends: how processes have ended that the nursery has forked. It alone is told by the kernel; it leaves a note, others read it.

A process that has to end itself does it here, too: `end`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)

MEMORY_CODE, HUNG_CODE = 86, 87
"""Exit codes of processes that end themselves."""
FOLDER = "ends"
KEPT = 256
"""Notes that are kept."""
_MEMORY = ": this machine was out of memory, or somebody killed it"


def end(reason: str, told: Callable[[str], None], code: int) -> NoReturn:
    """End this process at once, whatever its threads are doing. told: hears why before."""
    log.error("%s: the process ends", reason)
    try:
        told(reason)
    finally:
        os._exit(code)


class Reaper:
    """Takes the exit status of the children of this process. Poll `fileno()`, then `reap()`. To be made in the main thread."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER
        self._noted: deque[Path] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _heard)
        self.reap()  # children that have ended before

    def fileno(self) -> int:
        return self._reader.fileno()

    def reap(self) -> None:
        """Take all that have ended; note those that did not end well."""
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if status:
                self._note(pid, os.waitstatus_to_exitcode(status))

    def forget(self) -> None:
        """Give up what a child has inherited."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._reader.close()
        self._writer.close()

    def _note(self, pid: int, code: int) -> None:
        file = self._folder / str(pid)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            file.write_text(str(code))
        except OSError:
            return  # the run directory has gone, or the disk is full: nobody must die of a note
        self._noted.append(file)
        if len(self._noted) > KEPT:
            self._noted.popleft().unlink(missing_ok=True)


def at(run_dir: Path, pid: int, after: float) -> float:
    """Return when a process ended, in seconds since 1970; 0.0 where that is not known. One that had its pid before `after` is not it."""
    try:
        ended = (run_dir / FOLDER / str(pid)).stat().st_mtime
    except OSError:
        return 0.0
    return ended if ended > after - 1.0 else 0.0


def cause(run_dir: Path, pid: int, after: float) -> str:
    """Return how it ended, in words that go behind "the process"."""
    if not at(run_dir, pid, after):
        return "ended"
    try:
        code = int((run_dir / FOLDER / str(pid)).read_text())
    except (OSError, ValueError):
        return "ended"
    if code == MEMORY_CODE:
        return "was ended: it took more memory than resources.memory_mb"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed ({name}{_MEMORY if name == 'SIGKILL' else ''})" if name in ("SIGKILL", "SIGTERM") else f"crashed ({name})"


def _heard(_number: int, _frame: object) -> None:
    """The wake-up descriptor has been written to; nothing more to do."""
