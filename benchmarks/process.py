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

TAG = "SERVING_BENCH_TAG"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class StartFailed(Exception):
    """A server ended or stayed silent while it should have become ready; the message holds the end of its log."""


@dataclass(slots=True)
class Running:
    """A started server. `http` and `grpc` are "host:port" or ""."""

    name: str
    process: subprocess.Popen[bytes]
    tag: str
    log: Path
    http: str
    grpc: str
    started_s: float = 0.0
    _ids: set[int] = field(default_factory=set)

    def members(self) -> set[int]:
        """Process ids of the whole tree, now."""
        parents: dict[int, int] = {}
        mark = f"{TAG}={self.tag}".encode()
        found = {self.process.pid} | self._ids
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            pid = int(entry)
            try:
                parents[pid] = _stat(pid)[1]
                if pid not in found and mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.add(pid)
            except OSError:
                continue
        found &= parents.keys()
        grew = True
        while grew:
            children = {pid for pid, parent in parents.items() if parent in found} - found
            found |= children
            grew = bool(children)
        self._ids = found
        return found

    def cpu_s(self) -> dict[int, float]:
        """User and system seconds of each process of the tree, without its children."""
        times: dict[int, float] = {}
        for pid in self.members():
            try:
                times[pid] = _stat(pid)[2]
            except OSError:
                continue
        return times

    def count(self, word: str) -> int:
        """How many processes of the tree carry `word` in their title."""
        found = 0
        for pid in self.members():
            try:
                found += word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
        return found

    def stop(self, patience_s: float = 20.0) -> None:
        """SIGTERM to the first process, SIGKILL to all that is left after `patience_s`."""
        self.members()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                pass
        # The tree is read again before each kill: a pid that has gone and come back as a stranger carries no tag.
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if not self._wait_gone(2.0):
                for pid in self._ids:
                    try:
                        os.kill(pid, sign)
                    except ProcessLookupError:
                        continue
        self._wait_gone(5.0)

    def _wait_gone(self, patience_s: float) -> bool:
        end = time.monotonic() + patience_s
        while self.members_alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def members_alive(self) -> bool:
        self.process.poll()
        self._ids = {pid for pid in self.members() if _state(pid) not in ("Z", "")}
        return bool(self._ids)


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
    running = Running(name, process, tag, log, http, grpc)
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


def _stat(pid: int) -> tuple[str, int, float]:
    """State, parent and CPU seconds. The name in field 2 may hold spaces and brackets, so read after the last one."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _state(pid: int) -> str:
    try:
        return _stat(pid)[0]
    except OSError:
        return ""


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
