"""changed: whether the files of a deployment still are what they were when it was declared."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from serving.plan import DeploymentTarget
from serving.spec.artefact import digest


def changed(deployment: DeploymentTarget) -> str:
    """Return what is wrong with its files, or "": one is gone, or has other contents than its recorded SHA-256.

    A file is read once for each size and time of change that it has.
    """
    paths = [Path(p) for p in (deployment.plan.artefact, deployment.plan.weights) if p]
    recorded = deployment.digest.split("+") if deployment.digest else []
    for path, was in zip(paths, recorded, strict=False):
        try:
            now = _digest(path, *_stamp(path))
        except OSError as error:
            return f"{path}: {error.strerror}"
        if now != was:
            return f"{path} has changed since (SHA-256 {was[:12]} → {now[:12]})"
    return ""


def _stamp(path: Path) -> tuple[int, int, int]:
    seen = os.stat(path)
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


@lru_cache(maxsize=1024)
def _digest(path: Path, _inode: int, _size: int, _time_ns: int) -> str:
    return digest(path)
