"""Leftovers: what an engine leaves that was killed. Processes are found by the tag in their environment; Linux only, elsewhere none are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

from serving.cluster.boot import RUN_PREFIX, TAG
from serving.state import quota_file


def processes(name: str, value: str, title: str = "") -> list[int]:
    """Return the pids of all processes but this one that have `name=value` in their environment and a title that begins so."""
    mark = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            tagged = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if tagged and int(entry.name) != os.getpid() and _is_called(entry, title):
            found.append(int(entry.name))
    return found


def _is_called(process: Path, title: str) -> bool:
    try:
        return not title or (process / "cmdline").read_bytes().startswith(title.encode())
    except OSError:
        return False


def kill(name: str, value: str) -> list[int]:
    """Kill what is left, and return what was. Safe against pids that are used anew: each is looked at just before."""
    left = processes(name, value)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    return left


def clear(run_dir: Path, patience_s: float = 3.0) -> None:
    """End the processes of the engine that had this run directory, then remove it. Does nothing to a path that is no such directory.

    The path comes from a file that a power cut may have torn, so nothing is believed of it.
    """
    try:
        ours = (
            run_dir.is_absolute()
            and run_dir.name.startswith(RUN_PREFIX)
            and not run_dir.is_symlink()
            and run_dir.stat().st_uid == os.getuid()
        )
    except (OSError, ValueError):
        return
    if not ours or not run_dir.is_dir():
        return
    try:
        tag = json.loads((run_dir / "boot.json").read_text())["engine"]
    except (OSError, ValueError, KeyError, TypeError):
        tag = ""
    if isinstance(tag, str) and tag:
        outlast(TAG, tag, patience_s)
    remove(run_dir)


def remove(run_dir: Path) -> None:
    """Remove a run directory, and what its engine has put into memory. Harmless to repeat."""
    quota_file(str(run_dir)).unlink(missing_ok=True)
    shutil.rmtree(run_dir, ignore_errors=True)


def outlast(name: str, value: str, patience_s: float) -> list[int]:
    """Give the processes a moment to end by themselves, kill those that do not, and return them."""
    end = time.monotonic() + patience_s
    while processes(name, value) and time.monotonic() < end:
        time.sleep(0.05)
    return kill(name, value)
