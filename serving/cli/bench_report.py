"""`serving bench report|compare|gate|result-schema`: what is made of the results that `serving bench run` has written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from serving.bench import gate as rules
from serving.bench.compare import THRESHOLD, Comparison, compare
from serving.bench.gate import Judgement, Rule
from serving.bench.report import table
from serving.bench.report.page import comparison_page, result_page
from serving.bench.report.spreadsheet import csv_text, timeline_csv
from serving.bench.report.table import Table
from serving.bench.report.words import about
from serving.bench.result import Result
from serving.bench.sweep import Sweep, read
from serving.cli.output import fail, print_json, print_lines, print_table, say
from serving.errors import InvalidArgument

T = TypeVar("T")

HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a page with plots here; one file, opens without a network.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write the figures here as CSV.")]
GateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gate", help="A rule (p99<=20ms, errors==0; against BEFORE: p99<=1.05x, throughput>=0.97x) or a file with one a line. Repeatable."
    ),
]
JunitOption = Annotated[Path | None, typer.Option("--junit", help="Write what became of the rules here, as JUnit XML.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="A rule that noise leaves undecided counts as failed.")]


def register(app: typer.Typer) -> None:
    """Hang the commands on the app of `serving bench`."""
    app.command("report")(report)
    app.command("compare")(compare_command)
    app.command("gate")(gate_command)
    app.command("result-schema")(schema)


def report(
    files: Annotated[list[Path], typer.Argument(help="Results or sweeps, as --json wrote them.")],
    html: HtmlOption = None,
    csv: CsvOption = None,
    timeline: Annotated[Path | None, typer.Option("--timeline", help="Write the seconds here as CSV.")] = None,
    title: Annotated[str, typer.Option("--title", help="Of the page.")] = "",
) -> None:
    """Print results as tables, and write them as a page or as CSV."""
    found = [_read(file, read) for file in files]
    results = [one for one in found if isinstance(one, Result)]
    sweeps = [one for one in found if isinstance(one, Sweep)]
    everything = [*results, *(point for sweep in sweeps for point in sweep.points)]
    if len(everything) == 1:
        show(everything[0])
    else:
        _print(table.overview(everything))
    save(html, lambda: result_page(results, sweeps, title))
    save(csv, lambda: csv_text(everything))
    save(timeline, lambda: timeline_csv(everything))


def compare_command(
    before: Annotated[Path, typer.Argument(help="The earlier result.")],
    after: Annotated[Path, typer.Argument(help="The later one.")],
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="A change of less does not matter: 0.03 is 3 %.")
    ] = THRESHOLD,
    gate: GateOption = None,
    strict: StrictOption = False,
    junit: JunitOption = None,
    html: HtmlOption = None,
) -> None:
    """Say what changed from one result to another, and how sure that is. With --gate the exit code is 1 when a rule fails."""
    parsed = parse_gate(gate or [])
    comparison = compare(_read(before, Result.read), _read(after, Result.read), threshold=threshold)
    judgements = judged(parsed, comparison.after, comparison.before)
    show_comparison(comparison)
    save(html, lambda: comparison_page(comparison, judgements))
    finish(judgements, name=after.stem, strict=strict, junit=junit)


def gate_command(
    result: Annotated[Path, typer.Argument(help="The result to judge.")],
    gate: GateOption = None,
    before: Annotated[Path | None, typer.Option("--before", help="The earlier result that rules with an x refer to.")] = None,
    strict: StrictOption = False,
    junit: JunitOption = None,
) -> None:
    """Judge a result by rules; the exit code is 1 when one fails."""
    parsed = parse_gate(gate or [])
    if not parsed:
        fail("no rule to judge by: expected --gate RULE or --gate FILE", code=2)
    judgements = judged(parsed, _read(result, Result.read), _read(before, Result.read) if before else None)
    finish(judgements, name=result.stem, strict=strict, junit=junit)


def schema() -> None:
    """Print the JSON Schema of a result.

    benchmarks/results/result.schema.json is a copy: serving bench result-schema > benchmarks/results/result.schema.json
    """
    print_json(Result.json_schema())


def show(result: Result) -> None:
    """Print all there is to say about a result."""
    print_lines([about(result)])
    for one in table.result_tables(result):
        _print(one)
    for warning in result.warnings:
        say(f"warning: {warning}")


def show_comparison(comparison: Comparison) -> None:
    """Print what changed, and on what that rests."""
    print_lines([f"before: {about(comparison.before)}", f"after:  {about(comparison.after)}", f"basis:  {comparison.basis}"])
    for difference in comparison.differences:
        say(f"warning: {difference}")
    _print(table.comparison_table(comparison))
    print_lines(["", comparison.summary])


def parse_gate(texts: Sequence[str]) -> list[Rule]:
    """Return the rules of some texts, each a rule or the path of a file of rules. Ends the command where one is wrong."""
    try:
        lines = [line for text in texts for line in (Path(text).read_text().splitlines() if Path(text).is_file() else [text])]
        return rules.parse_rules(lines)
    except (InvalidArgument, OSError) as error:
        fail(str(error), code=2)


def judged(parsed: Sequence[Rule], after: Result, before: Result | None) -> list[Judgement]:
    """Return what becomes of the rules. Ends the command where one needs an earlier result and there is none."""
    try:
        return rules.judge(parsed, after, before)
    except InvalidArgument as error:
        fail(str(error), code=2)


def finish(judgements: Sequence[Judgement], *, name: str, strict: bool, junit: Path | None) -> None:
    """Print what became of the rules, write it as JUnit, and end the command with 1 when one failed. Nothing without rules."""
    save(junit, lambda: rules.junit(judgements, name=name, strict=strict))
    if not judgements:
        return
    _print(table.gate_table(judgements))
    if not rules.passes(judgements, strict=strict):
        raise typer.Exit(1)


def save(path: Path | None, text: Callable[[], str]) -> None:
    """Write a text to a file, if one is asked for, and say so."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text())
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")
    say(f"written: {path}")


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    try:
        return reader(path)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    except ValueError as error:
        fail(str(error))


def _print(one: Table) -> None:
    typer.secho(f"\n{one.title}", bold=True)
    print_table(one.columns, one.rows)
