"""`serving schema`: prints the JSON Schema of the YAML."""

from __future__ import annotations

import typer

from serving.cli.output import print_json
from serving.spec import json_schema


def register(app: typer.Typer) -> None:
    app.command("schema")(schema)


def schema() -> None:
    """Print the JSON Schema of the YAML files, for editors and other tools.

    configs/serving.schema.json is a copy: serving schema > configs/serving.schema.json
    """
    print_json(json_schema())
