"""`serving bench ab`: two scenarios in turns, so that what disturbs the machine for a while disturbs both alike."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer

from serving.bench.compare import THRESHOLD, compare
from serving.bench.dial import Tls
from serving.bench.gate import Judgement
from serving.bench.interleave import Side, interleave
from serving.bench.report.page import comparison_page
from serving.bench.result import Result
from serving.bench.run import Bench, Once, interrupts
from serving.bench.scenario import Scenario
from serving.bench.scenario_file import read_scenario
from serving.cli.bench_options import tls, with_key
from serving.cli.bench_progress import ProgressLine
from serving.cli.bench_report import GateOption, HtmlOption, JunitOption, StrictOption, finish, judged, parse_gate, save, show_comparison
from serving.cli.output import fail, print_lines, say
from serving.errors import ServingError
from serving.spec import InvalidSpec


def register(app: typer.Typer) -> None:
    """Hang the command on the app of `serving bench`."""
    app.command("ab")(ab)


def ab(
    before: Annotated[Path, typer.Argument(help="The scenario of the one side.")],
    after: Annotated[Path, typer.Argument(help="The scenario of the other.")],
    urls: Annotated[
        tuple[str, str] | None,
        typer.Option("--url", metavar="BEFORE AFTER", help="Where the sides are; else as the scenarios say. One scenario may serve both."),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="How often each side runs; 5 or more for a verdict.")] = 6,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="A change of less does not matter: 0.03 is 3 %.")
    ] = THRESHOLD,
    json: Annotated[tuple[Path, Path] | None, typer.Option("--json", help="Write the two results here.", metavar="BEFORE AFTER")] = None,
    html: HtmlOption = None,
    gate: GateOption = None,
    strict: StrictOption = False,
    junit: JunitOption = None,
) -> None:
    """Measure two servers or two loads in turns, A B B A A B …, and say what differs, and how sure that is.

    Both servers run all the time. Ctrl-C ends it early; the whole pairs until then count. Exit code 1: a rule of --gate failed.
    """
    rules = parse_gate(gate or [])
    a, b = _scenario(before), _scenario(after)
    if urls is not None:
        a, b = replace(a, url=urls[0]), replace(b, url=urls[1])
    found = _measured(a, b, pairs)
    if found is None:
        fail("ended before the first pair was whole")
    one, other = found
    if json is not None:
        save(json[0], one.text)
        save(json[1], other.text)
    comparison = compare(one, other, threshold=threshold)
    judgements: list[Judgement] = judged(rules, other, one)
    show_comparison(comparison)
    save(html, lambda: comparison_page(comparison, judgements))
    finish(judgements, name=after.stem, strict=strict, junit=junit)


def _scenario(path: Path) -> Scenario:
    try:
        scenario = read_scenario(path)
        return replace(scenario, headers=with_key(scenario.headers), tls=tls({}) if scenario.tls == Tls() else scenario.tls)
    except InvalidSpec as invalid:
        print_lines(map(str, invalid.problems))
        raise typer.Exit(1) from None


def _measured(a: Scenario, b: Scenario, pairs: int) -> tuple[Result, Result] | None:
    """Return both results, their repetitions paired; None where no pair became whole."""
    stop = threading.Event()
    started_at = datetime.now(UTC)
    benches: list[Bench] = []
    try:
        with interrupts(stop), ProgressLine() as line:
            benches += [Bench.open(a, stop)]
            benches += [Bench.open(b, stop)]

            def said(side: Side, pair: int) -> None:
                line.title = f"{side} {pair + 1}/{pairs} "

            def run(number: int, scenario: Scenario) -> Once:
                return benches[number].once(scenario.load, line.told)

            runs = interleave(lambda: run(0, a), lambda: run(1, b), pairs, said=said, stopped=stop.is_set)
    except ServingError as error:
        fail(error.message)
    finally:
        for bench in benches:
            bench.close()
    if not runs[0]:
        return None
    if stop.is_set():
        say(f"ended early: {len(runs[0])} of {pairs} pairs")
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    paired = uuid4().hex
    one, other = (
        bench.result(found, scenario.load, started_at, command).model_copy(update={"interleaved": paired})
        for bench, found, scenario in zip(benches, runs, (a, b), strict=True)
    )
    return one, other
