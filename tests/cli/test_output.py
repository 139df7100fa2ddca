from __future__ import annotations

import json

import pytest
import typer

from serving.cli.output import fail, print_json, print_table, say


def test_in_a_pipe_a_table_is_aligned_lines_without_holes(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["model", "state", "why"], [["mlp/1", "ready", None], ["digits/12", "failed", "no\n  GPU"]])
    assert capsys.readouterr().out == "MODEL      STATE   WHY\nmlp/1      ready   -\ndigits/12  failed  no GPU\n"


def test_a_table_without_rows_is_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["model", "state"], [])
    assert capsys.readouterr().out == "MODEL  STATE\n"


def test_on_a_terminal_numbers_stand_to_the_right_and_nothing_is_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    print_table(["model", "replicas"], [["[red]mlp[/]", 2], ["digits", 10]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "MODEL        REPLICAS",
        "[red]mlp[/]         2",
        "digits             10",
    ]


def test_json_is_one_document_in_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"effect": "1 → 2"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"effect": "1 → 2"}
    assert "→" in out


def test_a_failure_is_one_sentence_on_stderr_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    say("starting")
    with pytest.raises(typer.Exit) as raised:
        fail("port 8000 is in use", code=1)
    captured = capsys.readouterr()
    assert (raised.value.exit_code, captured.out, captured.err) == (1, "", "starting\nserving: port 8000 is in use\n")
