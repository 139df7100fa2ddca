"""The files that a command was given, as text; and who gave the command."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from pathlib import Path


def texts(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return name and text of files that have been read without a problem just before; one that has gone since is left out."""
    found = []
    for file in files:
        try:
            found.append((str(file), file.read_text("utf-8-sig")))
        except (OSError, ValueError):
            continue
    return found


def user_name() -> str:
    """Return who runs this command, as the system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
