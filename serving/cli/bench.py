"""`serving bench run`: sends load to any server of the Open Inference Protocol and says what came of it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from serving.bench.arrivals import Bursty, Constant, Poisson
from serving.bench.encode import Encoding
from serving.bench.load import Closed, Load
from serving.bench.report.page import result_page
from serving.bench.report.spreadsheet import csv_text
from serving.bench.result import Result
from serving.bench.run import Bench, interrupts
from serving.bench.scenario import Driver, Scenario
from serving.bench.scenario_file import scenario_schema
from serving.bench.sweep import Sweep, climb
from serving.bench.target import Wire
from serving.cli import bench_ab, bench_report
from serving.cli.bench_options import Options, parse_numbers
from serving.cli.bench_progress import ProgressLine
from serving.cli.bench_report import save, show
from serving.cli.output import fail, print_json, print_lines
from serving.errors import InvalidArgument, ServingError
from serving.spec import InvalidSpec

Arrival = Literal["constant", "poisson", "bursty", "ramp", "step", "recorded"]
API_KEY_HELP = "Sent as a bearer token. Default: SERVING_API_KEY, which others cannot see."
INPUT_HELP = ".npy, .npz, .json or .parquet. Default: random inputs."


def register(app: typer.Typer) -> None:
    """Hang `bench` on the app, with the commands of this module and of those beside it."""
    bench = typer.Typer(help="Measure this engine, or any other server of the Open Inference Protocol.", no_args_is_help=True)
    bench.command("run")(run)
    for module in (bench_report, bench_ab):
        module.register(bench)
    bench.command("schema")(schema)
    app.add_typer(bench, name="bench")


def run(
    url: Annotated[str | None, typer.Option(metavar="URL", help="http://H:P, https://H:P, grpc://H:P, grpcs://H:P or H:P.")] = None,
    protocol: Annotated[Wire | None, typer.Option(help="As the URL says; else rest.")] = None,
    driver: Annotated[Driver | None, typer.Option(help="raw, or tritonclient, which is what clients feel. Default: raw.")] = None,
    streaming: Annotated[bool, typer.Option("--streaming", help="ModelStreamInfer instead of single calls (gRPC).")] = False,
    header: Annotated[list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent with every request.")] = None,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help=API_KEY_HELP)] = None,
    tls_ca: Annotated[Path | None, typer.Option(exists=True, metavar="PEM", help="Authorities to trust. Default: SERVING_CA.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(exists=True, metavar="PEM", help="Our certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, metavar="PEM", help="Its key.")] = None,
    tls_insecure: Annotated[bool, typer.Option("--tls-insecure", help="Take any certificate (REST).")] = False,
    pid: Annotated[int | None, typer.Option(min=1, metavar="PID", help="A process of the server. Default: who listens there.")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME[:WEIGHT]", help="Several make a mix.")] = None,
    version: Annotated[str | None, typer.Option(metavar="N", help="Version of the model.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="ROWS", help="Rows in a request. Default: 1.")] = None,
    shape: Annotated[list[str] | None, typer.Option(metavar="INPUT:SIZE,…", help="Of an input that takes any size.")] = None,
    input: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help=INPUT_HELP)] = None,
    expect: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Outputs for its rows.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, metavar="N", help="Different requests, at most. Default: 16.")] = None,
    encoding: Annotated[Encoding | None, typer.Option(help="How tensors travel over REST. Default: binary, if the server has it.")] = None,
    output: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Output to ask for. Default: all.")] = None,
    scenario: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, metavar="YAML", help="Options beside it win.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, metavar="N", help="Closed loop: N requests always under way.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, metavar="PER_S", help="Open loop, whatever the server does.")] = None,
    arrivals: Annotated[Arrival | None, typer.Option(help="How they come at that rate. Default: poisson.")] = None,
    burstiness: Annotated[float, typer.Option(min=0.001, metavar="B", help="bursty: 1 is poisson, less comes in clusters.")] = 0.25,
    ramp_from: Annotated[float, typer.Option(min=0, metavar="PER_S", help="ramp: the first rate; --rate is the last.")] = 0.0,
    ramp_over: Annotated[float | None, typer.Option(min=0.001, metavar="S", help="ramp: seconds from first to last.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="PER_S:S,…", help="step: rates, each for its seconds.")] = None,
    repeat_steps: Annotated[bool, typer.Option("--repeat-steps", help="step: over and over.")] = False,
    recorded: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Seconds, one a line.")] = None,
    speed: Annotated[float, typer.Option(min=0.001, metavar="X", help="recorded: how much faster.")] = 1.0,
    max_in_flight: Annotated[int | None, typer.Option(min=1, metavar="N", help="Open loop: under way, at most. Default: 1024.")] = None,
    duration: Annotated[float | None, typer.Option(min=0, metavar="S", help="Of the measurement. Default: 10.")] = None,
    max_requests: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of the measurement.")] = None,
    warm_up: Annotated[float | None, typer.Option(min=0, metavar="S", help="Before it, not counted. Default: 1.")] = None,
    repetitions: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of the whole; intervals from two on.")] = None,
    stable: Annotated[bool, typer.Option("--stable", help="Windows of --duration until three in a row agree.")] = False,
    stable_within: Annotated[float, typer.Option(min=0.001, max=1, metavar="SHARE", help="How near they must be.")] = 0.1,
    stable_percentile: Annotated[float, typer.Option(min=1, max=99.99, metavar="P", help="Whose latency must agree.")] = 50.0,
    windows: Annotated[int, typer.Option(min=3, metavar="N", help="At most so many.")] = 10,
    sweep: Annotated[str | None, typer.Option(metavar="N,N,…", help="A run for each concurrency.")] = None,
    sweep_rates: Annotated[str | None, typer.Option(metavar="PER_S,…", help="A run for each rate.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, metavar="N", help="That send. Default: 1.")] = None,
    connections: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most. Default: as many as needed.")] = None,
    streams: Annotated[int | None, typer.Option(min=1, metavar="N", help="Requests at a time on a connection (gRPC). Default: 1.")] = None,
    new_connection: Annotated[bool | None, typer.Option("--new-connection", help="A connection for each request.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.001, metavar="S", help="Until a request has failed. Default: 20.")] = None,
    check_share: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="Of answers that is compared. Default: 0.01.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="The same seed sends the same.")] = None,
    slo_ms: Annotated[float | None, typer.Option(min=0.001, metavar="MS", help="Answers within this are goodput.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the report.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The whole result; - is stdout.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A report with plots.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="A row for the whole, each kind of request, each repetition.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress.")] = False,
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
    if not quiet and str(json) != "-":
        _print(results)
    _write(results, bool(numbers), asked.name, json, html, csv)
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
    text = sweep.text if sweep else results[0].text
    if str(json) == "-":
        typer.echo(text(), nl=False)
    else:
        save(json, text)
    save(html, lambda: result_page([], [sweep]) if sweep else result_page(results))
    save(csv, lambda: csv_text(results))


def _print(results: list[Result]) -> None:
    for number, result in enumerate(results):
        if number:
            print_lines([""])
        show(result)


def _check_writable(path: Path | None) -> None:
    """A load of minutes must not end with a file that cannot be written."""
    if path is None or str(path) == "-":
        return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not os.access(folder, os.W_OK):
        fail(f"cannot write {path}", 2)
