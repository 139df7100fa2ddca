"""`serving validate FILE...`: says everything that is wrong with the files."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("validate")(validate)


def validate(files: list[str]) -> None:
    """Check YAML files without starting anything."""
