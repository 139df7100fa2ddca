"""What a measurement ran on, in words that may be published: no names of hosts, people or places."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.bench.figures import Machine

PACKAGES = ("serving", "numpy", "tritonclient", "grpcio", "geventhttpclient", "aiohttp")


def machine() -> Machine:
    """Return what this process runs on; cores are those that it may use."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        kernel=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
    )


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of packages, by default of what sends; those that are not there are left out."""
    return {name: found for name in packages if (found := _version(name))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
