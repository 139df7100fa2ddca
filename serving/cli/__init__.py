"""The command line: `serving COMMAND`.

A command module has `register(app)`, which hangs its commands on the app; the table below says which commands exist, and where. Only
the module of the command that is asked for is loaded: all of them together take a second (the load tester, numpy, the spec).
Exit codes, the same for every command: 0 it is as you asked, 1 it is not (an invalid file, a model that does not start, an engine
that does not answer), 2 the command line itself was wrong, 3 (`plan` and `diff` only) there is something to change, 4 (`apply`
and `delete`) the change waits for an approval.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from serving.cli import credentials

COMMANDS = {
    "up": "up", "plan": "plan", "diff": "plan", "apply": "control", "status": "control", "delete": "control", "down": "control",
    "approvals": "approvals", "approve": "approvals", "reject": "approvals",
    "history": "record", "rollback": "record", "events": "record", "kpis": "record",
    "backup": "backup", "restore": "backup", "keys": "keys", "certs": "certs",
    "validate": "validate", "schema": "schema", "bench": "bench",
}  # fmt: skip
"""Module of each command, in the order of the help."""


class Commands(TyperGroup):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        part = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        import_module(f"serving.cli.{module}").register(part)
        return typer.main.get_group(part).commands[cmd_name]


app = typer.Typer(
    name="serving",
    cls=Commands,
    help="A model serving engine: models declared in YAML, answered over REST and gRPC.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(credentials.options)


def main() -> None:
    """Run the command line; the entry point of the installed `serving`."""
    app()
