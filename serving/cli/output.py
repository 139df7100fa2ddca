"""What commands print: tables for people, plain columns for pipes, JSON for programs.

Answers go to stdout and nothing else does; what went wrong goes to stderr, in one sentence.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES = {
    "ready": "green", "running": "green", "yes": "green",
    "starting": "yellow", "draining": "yellow", "updating": "yellow",
    "failed": "bold red", "lost": "bold red", "unhealthy": "bold red", "no": "red",
}  # fmt: skip


def print_json(value: Any) -> None:
    """Print one JSON document, indented, in UTF-8."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines as they are: no colours, no wrapping."""
    for line in lines:
        typer.echo(line)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a heading. On a terminal states are coloured and long cells wrap; in a pipe each row is one line."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print_lines(_columns([[c.upper() for c in columns], *cells]))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numbers = bool(cells) and all(_is_number(row[i]) for row in cells)
        table.add_column(column.upper(), justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STYLES.get(cell.lower(), "")) for cell in row))
    Console().print(table)


def say(line: str) -> None:
    """Print a line about what is going on; to stderr, so that a pipe sees answers only."""
    typer.echo(line, err=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one sentence on stderr and an exit code."""
    typer.echo(f"serving: {message}", err=True)
    raise typer.Exit(code)


def _columns(rows: list[list[str]]) -> list[str]:
    """Return aligned lines; an empty cell shows as '-', so that columns can be cut by number."""
    rows = [[" ".join(cell.split()) or "-" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit()
