"""The files that a command was given, as text; and who gave the command."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import typer

from serving.cli.output import print_lines
from serving.plan import Target
from serving.spec import InvalidSpec, load


def texts(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return name and text of files that have been read without a problem just before; one that has gone since is left out."""
    found = []
    for file in files:
        try:
            found.append((str(file), file.read_text("utf-8-sig")))
        except (OSError, ValueError):
            continue
    return found


def declared(files: Sequence[Path], refused: Callable[[list[str]], None] | None = None) -> Target:
    """Return what YAML files declare; what is wrong with them ends the command with 1, line by line on stdout, and told to `refused`."""
    try:
        return load(files)
    except InvalidSpec as invalid:
        problems = [str(p) for p in invalid.problems]
        print_lines(problems)
        if refused is not None:
            refused(problems)
        raise typer.Exit(1) from None


def user_name() -> str:
    """Return who runs this command, as the system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
