"""`serving schema`: prints the JSON Schema of the YAML."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("schema")(schema)


def schema() -> None:
    """Print the JSON Schema of the YAML files, for editors and other tools."""
