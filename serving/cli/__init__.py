"""The command line: `serving COMMAND`.

A command module has `register(app)`, which hangs its commands on the app; the list below is all there is to know about which
commands exist. Exit codes, the same for every command: 0 it is as you asked, 1 it is not (an invalid file, a model that does
not start, an engine that does not answer), 2 the command line itself was wrong, 3 (`plan` and `diff` only) there is something to change.
"""

from __future__ import annotations

import typer

from serving.cli import bench, certs, control, credentials, keys, plan, record, schema, up, validate

app = typer.Typer(
    name="serving",
    help="A model serving engine: models declared in YAML, answered over REST and gRPC.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.callback()(credentials.options)
for _module in (up, plan, control, record, keys, certs, validate, schema, bench):
    _module.register(app)


def main() -> None:
    """Run the command line; the entry point of the installed `serving`."""
    app()
