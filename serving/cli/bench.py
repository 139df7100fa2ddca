"""`serving bench run`: sends load to any server of the Open Inference Protocol and says what came of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from serving.bench.arrivals import Bursty, Constant, Poisson
from serving.bench.load import Closed, Load
from serving.bench.report.page import result_page
from serving.bench.report.spreadsheet import csv_text
from serving.bench.report.table import result_tables
from serving.bench.report.words import about, titles
from serving.bench.result import Result
from serving.bench.run import Bench, interrupts
from serving.bench.scenario import Driver, Scenario
from serving.bench.scenario_file import scenario_schema
from serving.bench.sweep import Sweep, climb
from serving.bench.target import Wire
from serving.cli.bench_options import Options, parse_numbers
from serving.cli.bench_progress import ProgressLine
from serving.cli.output import fail, print_json, print_lines, print_table, say
from serving.errors import InvalidArgument, ServingError
from serving.spec import InvalidSpec

Arrival = Literal["constant", "poisson", "bursty", "ramp", "step", "recorded"]
bench_app = typer.Typer(help="Measure this engine, or any other server of the Open Inference Protocol.", no_args_is_help=True)

TARGET, REQUESTS, LOAD, OUTPUT = "Where to send", "What to send", "How much to send", "What to write"


def register(app: typer.Typer) -> None:
    bench_app.command("run")(run)
    bench_app.command("schema")(schema)
    app.add_typer(bench_app, name="bench")


def run(
    url: Annotated[
        str | None, typer.Option(help="http://H:P, https://H:P, grpc://H:P, grpcs://H:P or H:P.", rich_help_panel=TARGET)
    ] = None,
    protocol: Annotated[Wire | None, typer.Option(help="As the URL says; else rest.", rich_help_panel=TARGET)] = None,
    driver: Annotated[Driver | None, typer.Option(help="raw; or tritonclient, which is what clients feel.", rich_help_panel=TARGET)] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="ModelStreamInfer instead of calls.", rich_help_panel=TARGET)] = False,
    header: Annotated[list[str] | None, typer.Option(help="'name: value', sent with every request.", rich_help_panel=TARGET)] = None,
    tls_ca: Annotated[Path | None, typer.Option(exists=True, help="Authorities to trust, PEM.", rich_help_panel=TARGET)] = None,
    tls_cert: Annotated[Path | None, typer.Option(exists=True, help="Our certificate, PEM.", rich_help_panel=TARGET)] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, help="Its key, PEM.", rich_help_panel=TARGET)] = None,
    tls_insecure: Annotated[bool, typer.Option("--tls-insecure", help="Take any certificate (REST).", rich_help_panel=TARGET)] = False,
    pid: Annotated[
        int | None,
        typer.Option(min=1, help="A process of the server; found by its port where it is on this machine.", rich_help_panel=TARGET),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="NAME, or NAME:WEIGHT; several make a mix.", rich_help_panel=REQUESTS)] = None,
    version: Annotated[str | None, typer.Option(help="Version of the model.", rich_help_panel=REQUESTS)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows in a request.", rich_help_panel=REQUESTS)] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="NAME:SIZE,SIZE,… of an input that takes any size.", rich_help_panel=REQUESTS)
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help=".npy, .npz, .json or .parquet; random without.", rich_help_panel=REQUESTS),
    ] = None,
    expect: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The outputs for the rows of --input.", rich_help_panel=REQUESTS)
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Different requests, at most.", rich_help_panel=REQUESTS)] = None,
    encoding: Annotated[
        Literal["binary", "json"] | None, typer.Option(help="How tensors travel over REST.", rich_help_panel=REQUESTS)
    ] = None,
    output: Annotated[list[str] | None, typer.Option(help="Output to ask for; all without.", rich_help_panel=REQUESTS)] = None,
    scenario: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="YAML; options given beside it win.", rich_help_panel=REQUESTS)
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Closed loop: so many requests are always under way.", rich_help_panel=LOAD)
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Open loop: requests a second, whatever the server does.", rich_help_panel=LOAD)
    ] = None,
    arrivals: Annotated[Arrival | None, typer.Option(help="How they come at that rate. Default: poisson.", rich_help_panel=LOAD)] = None,
    burstiness: Annotated[
        float, typer.Option(min=0.001, help="bursty: 1 is poisson, less comes in clusters.", rich_help_panel=LOAD)
    ] = 0.25,
    ramp_from: Annotated[float, typer.Option(min=0, help="ramp: the first rate; --rate is the last.", rich_help_panel=LOAD)] = 0.0,
    ramp_over: Annotated[float | None, typer.Option(min=0.001, help="ramp: seconds from first to last.", rich_help_panel=LOAD)] = None,
    steps: Annotated[str | None, typer.Option(help="step: RATE:SECONDS,RATE:SECONDS,…", rich_help_panel=LOAD)] = None,
    repeat_steps: Annotated[bool, typer.Option("--repeat-steps", help="step: over and over.", rich_help_panel=LOAD)] = False,
    recorded: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="recorded: seconds, one a line.", rich_help_panel=LOAD)
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="recorded: how much faster.", rich_help_panel=LOAD)] = 1.0,
    max_in_flight: Annotated[int | None, typer.Option(min=1, help="Open loop: requests under way, at most.", rich_help_panel=LOAD)] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds of the measurement. Default: 10.", rich_help_panel=LOAD)] = None,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Of the measurement.", rich_help_panel=LOAD)] = None,
    warm_up: Annotated[float | None, typer.Option(min=0, help="Seconds before it, not counted. Default: 1.", rich_help_panel=LOAD)] = None,
    repetitions: Annotated[int | None, typer.Option(min=1, help="Of the whole; intervals from two on.", rich_help_panel=LOAD)] = None,
    stable: Annotated[
        bool, typer.Option("--stable", help="Windows of --duration until three in a row agree, as perf_analyzer.", rich_help_panel=LOAD)
    ] = False,
    stable_within: Annotated[float, typer.Option(min=0.001, max=1, help="How near they must be.", rich_help_panel=LOAD)] = 0.1,
    stable_percentile: Annotated[float, typer.Option(min=1, max=99.99, help="Whose latency must agree.", rich_help_panel=LOAD)] = 50.0,
    windows: Annotated[int, typer.Option(min=3, help="At most so many.", rich_help_panel=LOAD)] = 10,
    sweep: Annotated[str | None, typer.Option(help="1,2,4,8: a run for each concurrency.", rich_help_panel=LOAD)] = None,
    sweep_rates: Annotated[str | None, typer.Option(help="100,200,400: a run for each rate.", rich_help_panel=LOAD)] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="That send. Default: 1.", rich_help_panel=LOAD)] = None,
    connections: Annotated[int | None, typer.Option(min=1, help="At most; as many as needed without.", rich_help_panel=LOAD)] = None,
    streams: Annotated[int | None, typer.Option(min=1, help="Requests at a time on a connection (gRPC).", rich_help_panel=LOAD)] = None,
    new_connection: Annotated[
        bool | None, typer.Option("--new-connection", help="A connection for each request.", rich_help_panel=LOAD)
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds until a request has failed. Default: 20.", rich_help_panel=LOAD)
    ] = None,
    check_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of answers that is read and compared. Default: 0.01.", rich_help_panel=LOAD)
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed sends the same.", rich_help_panel=LOAD)] = None,
    slo_ms: Annotated[float | None, typer.Option(min=0.001, help="Answers within this are goodput.", rich_help_panel=LOAD)] = None,
    name: Annotated[str | None, typer.Option(help="Title of the report.", rich_help_panel=OUTPUT)] = None,
    json: Annotated[Path | None, typer.Option("--json", help="The whole result; - is stdout.", rich_help_panel=OUTPUT)] = None,
    html: Annotated[Path | None, typer.Option(help="A report with plots, in one file.", rich_help_panel=OUTPUT)] = None,
    csv: Annotated[
        Path | None, typer.Option(help="A row for the whole, each kind of request, each repetition.", rich_help_panel=OUTPUT)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Send load to a server and report throughput, latencies and errors. Ctrl-C ends it early and still reports.

    serving bench run --url http://127.0.0.1:8000 --model mlp --concurrency 16 --duration 10 --json result.json

    Exit code 0: there were answers; 1: the server cannot be used, or answered nothing; 2: the command line was wrong.
    """
    given = dict(locals())
    given |= {"duration_s": duration, "warm_up_s": warm_up, "timeout_s": timeout}
    for path in (json, html, csv):
        _check_writable(path)
    try:
        numbers = _numbers(sweep, sweep_rates)
        if sweep_rates:
            given["rate"] = numbers[0]
        asked = Options(given).scenario()
        asked.address()
        loads = _loads(asked.load, numbers)
        if stable and asked.repetitions > 1:
            raise InvalidArgument("--stable measures windows until they agree; leave --repetitions out")
    except InvalidSpec as invalid:
        print_lines(map(str, invalid.problems))
        raise typer.Exit(1) from None
    except ServingError as error:
        fail(error.message, 2)
    settling = Settling(stable_percentile, stable_within, windows) if stable else None
    try:
        results = _measured(asked, loads, settling, not quiet)
    except ServingError as error:
        fail(error.message)
    _write(results, bool(numbers), asked.name, json, html, csv)
    if not quiet and str(json) != "-":
        _print(results)
    if not any(result.answers for result in results):
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON Schema of scenarios, for editors and other tools.

    benchmarks/scenarios/scenario.schema.json is a copy: serving bench schema > benchmarks/scenarios/scenario.schema.json
    """
    print_json(scenario_schema())


@dataclass(frozen=True, slots=True)
class Settling:
    """Windows until the figures hold still."""

    percent: float
    within: float
    at_most: int


def _numbers(sweep: str | None, sweep_rates: str | None) -> list[float]:
    """Return what a sweep goes over; [] without one."""
    if sweep and sweep_rates:
        raise InvalidArgument("--sweep goes over concurrencies and --sweep-rates over rates; give one of them")
    if sweep_rates:
        return parse_numbers(sweep_rates, "--sweep-rates")
    numbers = parse_numbers(sweep, "--sweep") if sweep else []
    if any(number != int(number) for number in numbers):
        raise InvalidArgument(f"--sweep {sweep}: a concurrency is a whole number; for rates there is --sweep-rates")
    return numbers


def _loads(load: Load, numbers: Sequence[float]) -> list[Load]:
    """Return the loads of a sweep; the one that there is without."""
    if not numbers:
        return [load]
    if isinstance(load.shape, Closed):
        return [replace(load, shape=Closed(int(number))) for number in numbers]
    arrivals = load.shape.arrivals
    if not isinstance(arrivals, Bursty | Constant | Poisson):
        raise InvalidArgument("a sweep goes over concurrencies, or over rates of constant, poisson or bursty arrivals")
    return [replace(load, shape=replace(load.shape, arrivals=replace(arrivals, rate=number))) for number in numbers]


def _measured(scenario: Scenario, loads: Sequence[Load], settling: Settling | None, shown: bool) -> list[Result]:
    """Run each load in turn; Ctrl-C ends the one under way, and what was measured counts."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    stop = threading.Event()
    bench = Bench.open(scenario, stop)
    try:
        with interrupts(stop), ProgressLine(shown) as line:
            for warning in bench.prepared.warnings:
                say(f"warning: {warning}")

            def measure(number: float) -> Result:
                load = loads[int(number)]
                line.title = f"{int(number) + 1}/{len(loads)} " if len(loads) > 1 else ""
                started_at = datetime.now(UTC)
                if settling is None:
                    return bench.result(bench.repeat(load, scenario.repetitions, line.told), load, started_at, command)
                runs, stability = bench.steady(load, line.told, percent=settling.percent, within=settling.within, at_most=settling.at_most)
                return bench.result(runs, load, started_at, command, stability)

            return climb(range(len(loads)), measure, lambda result: not stop.is_set())
    finally:
        bench.close()


def _write(results: list[Result], is_sweep: bool, name: str, json: Path | None, html: Path | None, csv: Path | None) -> None:
    sweep = Sweep(name=name, points=results) if is_sweep else None
    texts: list[tuple[Path | None, Callable[[], str]]] = [
        (json, sweep.text if sweep else results[0].text),
        (html, lambda: result_page([], [sweep]) if sweep else result_page(results)),
        (csv, lambda: csv_text(results)),
    ]
    for path, text in texts:
        if path is not None and str(path) == "-":
            typer.echo(text(), nl=False)
        elif path is not None:
            path.write_text(text())


def _print(results: list[Result]) -> None:
    for result, title in zip(results, titles(results), strict=True):
        if len(results) > 1:
            print_lines([title])
        print_lines([about(result)])
        for warning in result.warnings:
            say(f"warning: {warning}")
        for table in result_tables(result):
            print_lines(["", table.title])
            print_table(table.columns, table.rows)
        if len(results) > 1:
            print_lines([""])


def _check_writable(path: Path | None) -> None:
    """A load of minutes must not end with a folder that is not there."""
    if path is not None and str(path) != "-" and not path.absolute().parent.is_dir():
        fail(f"cannot write {path}: there is no folder {path.absolute().parent}", 2)
