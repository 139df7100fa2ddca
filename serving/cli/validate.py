"""`serving validate FILE...`: says everything that is wrong with the files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.output import print_json, print_lines
from serving.cli.repository import REPOSITORY_HELP, print_warnings, survey
from serving.plan import Target
from serving.spec import InvalidSpec, load


def register(app: typer.Typer) -> None:
    app.command("validate")(validate)


def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="YAML files that declare one engine together.")] = None,
    model_repository: Annotated[list[Path] | None, typer.Option(metavar="DIR", help=REPOSITORY_HELP)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines.")] = False,
) -> None:
    """Check YAML files and model repositories without starting anything.

    Prints every problem as FILE:LINE:COLUMN: what is wrong, and what would be right. Exit code 0: valid, 1: not valid.
    """
    if not files and not model_repository:
        raise typer.BadParameter("nothing to check: give a FILE, or --model-repository DIR")
    try:
        found = survey(model_repository or [])
        target = load(files or [], found.sources)
    except InvalidSpec as invalid:
        if json:
            print_json({"valid": False, "problems": [p.to_json() for p in invalid.problems]})
        else:
            print_lines(map(str, invalid.problems))
        raise typer.Exit(1) from None
    if json:
        print_json({"valid": True, "problems": [], "models": _versions(target), "warnings": list(found.notes)})
    else:
        print_warnings(found.notes)
        print_lines([f"valid: {', '.join(f'{name} ({_listed(versions)})' for name, versions in _versions(target).items()) or 'no models'}"])


def _versions(target: Target) -> dict[str, list[str]]:
    return {route.endpoint: list(route.versions) for route in target.routes.routes.values()}


def _listed(versions: list[str]) -> str:
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)}"
