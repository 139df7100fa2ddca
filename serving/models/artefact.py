"""Artefact: the file that a version is loaded from."""

from __future__ import annotations

from pathlib import Path

from serving.errors import NotFound
from serving.hosting import VersionPlan


def artefact_file(plan: VersionPlan) -> Path:
    """Return the path of the plan's artefact. Raises NotFound where no file lies there."""
    path = Path(plan.artefact)
    if not path.is_file():
        raise NotFound(f"'{plan.key}': artefact {path} is not there")
    return path
