"""Running: a server under measurement, with every process that it started.

A process belongs to it when its environment carries the tag, or when its parent belongs to it: Ray's raylet, GCS and
workers leave the session and the process group, and some of them overwrite their own environment with a title.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

TAG = "SERVING_BENCH_TAG"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class StartFailed(Exception):
    """A server ended or stayed silent while it should have become ready; the message holds the end of its log."""


class Stat(NamedTuple):
    """One process at one moment; `began` (ticks since boot) tells it from a later one with the same id."""

    state: str
    parent: int
    cpu_s: float
    began: int


@dataclass(slots=True)
class Running:
    """A server. `http` and `grpc` are "host:port" or "". One that was not started here has no `process`, and it is never stopped."""

    name: str
    root: int
    tag: str
    http: str
    grpc: str
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    _known: dict[int, int] = field(default_factory=dict)

    def members(self) -> dict[int, Stat]:
        """Every process of the tree, now. One that was seen once stays in it, whatever it does to its environment or parent."""
        everyone = _processes()
        found = {pid for pid, began in self._known.items() if pid in everyone and everyone[pid].began == began}
        found |= {self.root} & everyone.keys()
        if self.tag:
            mark = f"{TAG}={self.tag}".encode()
            found |= {pid for pid in everyone.keys() - found if mark in _environment(pid)}
        grew = True
        while grew:
            children = {pid for pid, stat in everyone.items() if stat.parent in found} - found
            found |= children
            grew = bool(children)
        self._known = {pid: everyone[pid].began for pid in found}
        return {pid: everyone[pid] for pid in found}

    def cpu_s(self) -> dict[int, float]:
        """User and system seconds of each process of the tree, without its children."""
        return {pid: stat.cpu_s for pid, stat in self.members().items()}

    def count(self, word: str) -> int:
        """How many processes of the tree carry `word` in their title."""
        found = 0
        for pid in self.members():
            try:
                found += word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
        return found

    def stop(self, patience_s: float = 60.0) -> None:
        """SIGTERM to the first process, then to all that are left, then SIGKILL."""
        if self.process is None:
            return
        self._alive()
        self.process.terminate()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._wait_gone(1.0):
                break
            for pid in self._alive():
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    continue
        self._wait_gone(5.0)

    def _wait_gone(self, patience_s: float) -> bool:
        end = time.monotonic() + patience_s
        while self._alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def _alive(self) -> list[int]:
        if self.process is not None:
            self.process.poll()
        return [pid for pid, stat in self.members().items() if stat.state != "Z"]


def start(
    name: str,
    argv: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    http: str = "",
    grpc: str = "",
    ready: Callable[[Running], bool],
    patience_s: float = 90.0,
) -> Running:
    """Start `argv` with one torch thread and wait until `ready` says so; raise StartFailed otherwise."""
    tag = secrets.token_hex(8)
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(argv),
            env={**os.environ, **ONE_THREAD, **(env or {}), TAG: tag},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(name, process.pid, tag, http, grpc, process)
    began = time.monotonic()
    try:
        while not ready(running):
            if process.poll() is not None:
                raise StartFailed(f"{name} ended with {process.returncode}\n{_tail(log)}")
            if time.monotonic() - began > patience_s:
                raise StartFailed(f"{name} was not ready after {patience_s:.0f} s\n{_tail(log)}")
            time.sleep(0.1)
    except BaseException:
        running.stop(5.0)
        raise
    running.started_s = time.monotonic() - began
    return running


def cpu_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Seconds spent between two readings. A process that ended in between counts up to its last reading only."""
    return sum(spent - before.get(pid, 0.0) for pid, spent in after.items())


def _processes() -> dict[int, Stat]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            # The name in field 2 may hold spaces and brackets: read after the last one.
            fields = text[text.rindex(")") + 2 :].split()
            found[int(entry)] = Stat(fields[0], int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(fields[19]))
    return found


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
