"""Starts: how often the replicas of a version have failed to start on this node, and when the next may try.

A version that cannot be loaded must cost little and come up by itself when what it lacked is there. So a replica that is to start after
failures waits: 1 s, 2, 4 and so on up to LONGEST_S. What it waits for is in files, one per replica that has begun to load, in
`run_dir/starts/<model>@<version>/`: a process that was killed while it loaded (memory, a crash in C) cannot tell anybody.
A replica that dies within QUICK_S of being ready counts as well, or each request that kills it would cost a start, and so does one that
has ended itself (too much memory, a model that hangs), whenever that was. The first such death holds nothing back, so that a replica
that somebody kills is back at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from serving.cluster import ends

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 60.0
QUICK_S = 2.0
FORGET_S = 900.0
"""Nothing has been tried for so long: whatever it was has been forgotten."""
KEPT = 12
"""Failures that are kept and counted: more do not change the delay."""
FOLDER = "starts"
LOOK_S = 1.0
AHEAD_S = 1.0
"""An end that is later than this from now was noted before the clock was set back."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the failures so far come to. Times in seconds since 1970; next_try 0.0 = now. `reason` is of the last failure."""

    failures: int = 0
    since: float = 0.0
    next_try: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Start:
    """One replica from the moment when it began to load. born: of its process, so that another one with the same pid is not it."""

    name: str
    code: str
    pid: int
    born: str
    begun: float
    ready: float = 0.0
    ended: float = 0.0
    reason: str = ""

    @classmethod
    def read(cls, file: Path) -> Self | None:
        try:
            return cls(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            return None


class Starts:
    """The starts of one version on this node. code: of its code, as Serve is told; failures of other code do not count."""

    def __init__(self, run_dir: Path, key: str, clock: Clock = time.time) -> None:
        self._run_dir = run_dir
        self._folder = run_dir / FOLDER / key.replace("/", "@")
        self._clock = clock
        self._mine: _Start | None = None

    def standing(self, code: str = "") -> Standing:
        """Return how it stands with this code; "": with the code that was tried last."""
        now = self._clock()
        starts = self._look(now)
        if starts and not code:
            code = max(starts, key=lambda s: s.begun).code
        starts = [s for s in starts if s.code == code]
        steady = max((s.ready for s in starts if s.ready and (s.ended or now) - s.ready > QUICK_S), default=0.0)
        failed = sorted((s for s in starts if s.ended and (s.reason or not _served(s))), key=lambda s: s.ended)
        for start in failed:
            if start.ended <= steady:  # one has served since
                self._file(start).unlink(missing_ok=True)
        failed = [s for s in failed if s.ended > steady]
        if not failed:
            return Standing()
        last = failed[-1]
        count = len(failed) - bool(last.ready)
        delay_s = min(FIRST_S * 2 ** (count - 1), LONGEST_S) if count else 0.0
        return Standing(len(failed), failed[0].ended, last.ended + delay_s, self._why(last))

    async def turn(self, code: str) -> None:
        """Return when the next may try."""
        wait_s = self._wait_s(code)
        while wait_s > 0:
            await asyncio.sleep(min(wait_s, LOOK_S))
            wait_s = self._wait_s(code)

    def _wait_s(self, code: str) -> float:
        return self.standing(code).next_try - self._clock()

    def begin(self, name: str, code: str) -> None:
        """Note that this process loads the version now."""
        pid = os.getpid()
        self._write(_Start(name, code, pid, _born(pid), self._clock()))

    def ready(self) -> None:
        """Note that it serves."""
        if self._mine is not None:
            self._write(replace(self._mine, ready=self._clock()))

    def failed(self, reason: str) -> None:
        """Note that it could not be loaded, and why."""
        if self._mine is not None:
            self._write(replace(self._mine, ended=self._clock(), reason=reason))
            self._mine = None  # Serve calls `__del__` of what could not start, too

    def left(self) -> None:
        """Note that it ends as it should."""
        if self._mine is not None:
            self._file(self._mine).unlink(missing_ok=True)

    def forget(self) -> None:
        """Start anew, without a delay: something has been changed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # Files

    def _look(self, now: float) -> list[_Start]:
        """Return what there is; note who has died, and drop what is of no more use."""
        try:
            files = list(self._folder.glob("*.json"))
        except OSError:
            return []
        starts = [self._follow(file, start, now) for file in files if (start := _Start.read(file)) is not None]
        old = sorted((s for s in starts if s.ended), key=lambda s: s.ended)
        # the first says since when
        drop = old if old and now - old[-1].ended > FORGET_S else old[1 : max(1, len(old) - KEPT + 1)]
        for start in drop:
            self._file(start).unlink(missing_ok=True)
        return [s for s in starts if s not in drop]

    def _follow(self, file: Path, start: _Start, now: float) -> _Start:
        if start.ended > now + AHEAD_S:  # else the next try would wait until the clock is there again
            start = replace(start, ended=now, ready=min(start.ready, now))
            _replace(file, start)
        if start.ended or _born(start.pid) == start.born:
            return start
        gone = replace(start, ended=ends.at(self._run_dir, start.pid, after=start.begun) or now)
        if _served(gone):
            file.unlink(missing_ok=True)
        elif file.exists():
            _replace(file, gone)
        return gone

    def _why(self, start: _Start) -> str:
        if start.reason:
            return start.reason
        how = ends.cause(self._run_dir, start.pid, after=start.begun)
        when = f"{start.ended - start.ready:.1f} s after it was ready" if start.ready else "while it was loading the model"
        return f"the replica's process {how} {when}"

    def _write(self, start: _Start) -> None:
        self._mine = start
        _replace(self._file(start), start)

    def _file(self, start: _Start) -> Path:
        return self._folder / f"{start.name}.json"


def _served(start: _Start) -> bool:
    return bool(start.ready) and start.ended - start.ready > QUICK_S


def _replace(file: Path, start: _Start) -> None:
    draft = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(start)))
        draft.replace(file)
    except OSError as error:
        # The run directory has gone, or the disk is full: no model must fail to start of a note, and no status.
        log.warning("%s: %s", file, error)


def _born(pid: int) -> str:
    """Return when a process began, in the kernel's words; "" where there is none (or no /proc to ask)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] == "Z" else words[19]
