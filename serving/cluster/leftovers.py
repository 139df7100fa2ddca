"""Processes of one engine, found by the tag in their environment; Linux only, elsewhere none are found."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def processes(name: str, value: str) -> list[int]:
    """Return the pids of all processes but this one that have `name=value` in their environment."""
    mark = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            tagged = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if tagged and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def kill(name: str, value: str) -> list[int]:
    """Kill what is left, and return what was. Safe against pids that are used anew: each is looked at just before."""
    left = processes(name, value)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    return left


def outlast(name: str, value: str, patience_s: float) -> list[int]:
    """Give the processes a moment to end by themselves, kill those that do not, and return them."""
    end = time.monotonic() + patience_s
    while processes(name, value) and time.monotonic() < end:
        time.sleep(0.05)
    return kill(name, value)
