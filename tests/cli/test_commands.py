"""The table of commands and the modules that it names say the same, and a command loads no more than its own module."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from serving.cli import COMMANDS, app


@pytest.mark.parametrize("module", sorted(set(COMMANDS.values())))
def test_the_table_names_all_commands_of_a_module(module: str) -> None:
    part = typer.Typer()
    import_module(f"serving.cli.{module}").register(part)
    assert set(typer.main.get_group(part).commands) == {name for name, of in COMMANDS.items() if of == module}


def test_help_shows_them_all_and_a_wrong_name_is_told() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    wrong = CliRunner().invoke(app, ["statsu"])
    assert wrong.exit_code == 2
    assert "No such command 'statsu'" in wrong.output


def test_status_does_not_load_the_load_tester() -> None:
    program = (
        "import sys; from serving.cli import app; app(['status', '--help'], standalone_mode=False); print('serving.bench' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
