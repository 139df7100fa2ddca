"""Trouble: what a version's replicas on this node say of calls of the model that went wrong lately; shown in its status.

Each replica that has something to say keeps a file in `run_dir/trouble/<model>@<version>/`. The metrics count all of it for good; this
is for the person who looks at the status, so it is forgotten FORGET_S after the last time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = "trouble"
FORGET_S = 300.0
TEXT_CHARS = 300

Clock = Callable[[], float]


class Trouble:
    """What one replica says. key: of its version, name: of the replica."""

    def __init__(self, run_dir: Path, key: str, name: str, clock: Clock = time.time) -> None:
        self._file = _folder(run_dir, key) / f"{name}.json"
        self._clock = clock
        self._told = (0, 0)

    def tell(self, failed: int, said: str, nan_rows: int) -> None:
        """Note how many requests the model has failed, what it said last, and how many rows of its answers were NaN, since its start."""
        if (failed, nan_rows) == self._told:
            return
        self._told = failed, nan_rows
        draft = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps({"at": self._clock(), "failed": failed, "said": said[:TEXT_CHARS], "nan_rows": nan_rows}))
            draft.replace(self._file)
        except OSError:
            return  # the run directory has gone, or the disk is full: nobody must fail of a note

    def over(self) -> None:
        """Have nothing to say any more: the replica ends."""
        self._file.unlink(missing_ok=True)


def told(run_dir: Path, key: str, clock: Clock = time.time) -> str:
    """Return what the replicas of a version say, in words for its status; "" where all is well."""
    failed = nan_rows = 0
    last, said = 0.0, ""
    for file in _folder(run_dir, key).glob("*.json"):
        try:
            note = json.loads(file.read_text())
        except (OSError, ValueError):
            continue  # it is being replaced, or was cut short by the end of a machine
        if clock() - note["at"] > FORGET_S:
            file.unlink(missing_ok=True)
            continue
        failed += note["failed"]
        nan_rows += note["nan_rows"]
        if note["said"] and note["at"] >= last:
            last, said = note["at"], note["said"]
    words = []
    if failed:
        words.append(f"the model failed {failed} request{'' if failed == 1 else 's'} since its start, last: {said}")
    if nan_rows:
        words.append(f"{nan_rows} row{'' if nan_rows == 1 else 's'} of its answers had NaN")
    return "; ".join(words)


def _folder(run_dir: Path, key: str) -> Path:
    return run_dir / FOLDER / key.replace("/", "@")
