"""Measures the engine against its peers on one machine in one run, and checks the floors of table.py.

Every round starts each system alone, loads it with `serving bench`, and stops it; the next round goes through them the other way round.
What is compared are medians over the rounds. Answers are checked against the model before each load, and a share of them within it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from benchmarks import cross_check, machine, readme, table, wrk
from benchmarks.ask import Generator
from benchmarks.cross_check import Agreement
from benchmarks.peers import engine, triton
from benchmarks.process import Running
from benchmarks.sitting import Choice, Sitting


def show(runs: table.Runs) -> bool:
    """Print the floors; return whether all that were measured hold."""
    print(table.plain_table(table.HEADER, [table.cells(v) for v in table.verdicts(runs)]))
    return all(v.passed for v in table.verdicts(runs))


def main() -> int:
    arguments = _arguments()
    if arguments.markdown is not None or arguments.readme is not None:
        return _readme(arguments.markdown, arguments.readme)
    whole = not (arguments.only or arguments.systems or arguments.quick or arguments.http or arguments.generator == "wrk")
    if (arguments.generator == "wrk" or arguments.cross_check or whole) and (missing := wrk.missing_tools()):
        print(f"{' and '.join(missing)} must be installed (Debian: apt install wrk nghttp2-client)", file=sys.stderr)
        return 2
    if arguments.cross_check:
        return 0 if cross_check.show(cross_check.measure()) else 1
    agreements = cross_check.measure() if whole else []
    agree = cross_check.show(agreements) if whole else True
    keys = frozenset(arguments.only or [*(row.key for row in table.ROWS), table.IDLE])
    systems = frozenset(arguments.systems or table.SYSTEMS)
    choice = Choice(keys, systems, arguments.rounds, arguments.seconds, arguments.idle_seconds, arguments.config.resolve())
    choice = replace(choice, generator=arguments.generator, repeat_s=arguments.repeat_seconds)
    given = Running("engine", arguments.pid, "", arguments.http, arguments.grpc) if arguments.http else None
    if "triton" in systems:
        triton.install()
    with tempfile.TemporaryDirectory(prefix="b-") as scratch:
        sitting = Sitting(choice, given, Path(scratch))
        sitting.measure()
    passed = show(sitting.runs)
    output = arguments.output or (machine.RESULTS / f"overhead-{datetime.date.today()}.json" if whole else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(_document(sitting, agreements), indent=1) + "\n")
        print(f"written: {output}")
    if arguments.results is not None:
        arguments.results.mkdir(parents=True, exist_ok=True)
        for name, result in sitting.results():
            result.write(arguments.results / name)
        print(f"written: {arguments.results}, for serving bench report and compare")
    for failure in sitting.failures:
        print(f"not measured: {failure.splitlines()[0]}", file=sys.stderr)
    return 0 if passed and agree and not sitting.failures else 1


def _readme(printed: str | None, written: str | None) -> int:
    """Print or write the tables of a result, the newest one where none is named."""
    named = printed or written
    file = Path(named) if named else readme.newest()
    if file is None:
        print("no results yet: run scripts/bench-overhead first", file=sys.stderr)
        return 1
    if written is None:
        print(readme.figures(file), end="")
    else:
        readme.write(file)
        print(f"written: {readme.FILE}, from {file}")
    return 0


def _document(sitting: Sitting, agreements: Sequence[Agreement]) -> dict[str, object]:
    floors = [
        {"row": v.floor.row, "measure": v.floor.measure, "against": v.floor.against, "bound": v.floor.bound, "limit": v.floor.limit}
        | {"ours": v.ours, "theirs": v.theirs, "ratio": round(v.ratio, 4), "interval": v.interval, "passed": v.passed}
        for v in table.verdicts(sitting.runs)
    ]
    return {
        "date": str(datetime.date.today()),
        "machine": machine.describe(triton=triton.VERSION),
        "rounds": sitting.choice.rounds,
        "seconds": sitting.choice.seconds,
        "generator": sitting.choice.generator,
        "cross_check": [one.to_json() for one in agreements],
        "floors": floors,
        "runs": sitting.runs,
        "failures": [failure.splitlines()[0] for failure in sitting.failures],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench-overhead", description="Measures the engine against its peers; exit 1 if a floor is missed."
    )
    parser.add_argument("--only", type=lambda s: s.split(","), help=f"rows: {', '.join(r.key for r in table.ROWS)}, {table.IDLE}")
    parser.add_argument("--systems", type=lambda s: s.split(","), help=f"systems: {', '.join(table.SYSTEMS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load, after one second of warming up")
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s: a look, not a result")
    parser.add_argument("--config", type=Path, default=engine.CONFIG, help="YAML of the engine under test")
    parser.add_argument("--http", default="", metavar="HOST:PORT", help="REST of an engine that runs already, instead of starting one")
    parser.add_argument("--grpc", default="", metavar="HOST:PORT", help="its gRPC")
    parser.add_argument("--pid", type=int, default=0, help="its first process, so that its CPU can be read")
    parser.add_argument("--generator", choices=get_args(Generator), default="bench", help="serving bench, or wrk and h2load")
    parser.add_argument("--repeat-seconds", type=float, default=120.0, help="of the whole, for repeating loads that others disturbed")
    parser.add_argument("--cross-check", action="store_true", help="compare serving bench with wrk and h2load, and nothing else")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="write what serving bench says of each load, for its report and compare"
    )
    parser.add_argument("--output", type=Path, help="JSON file; a whole run writes benchmarks/results/overhead-DATE.json")
    parser.add_argument("--markdown", nargs="?", const="", metavar="JSON", help="print the README's tables of the newest (or this) result")
    parser.add_argument("--readme", nargs="?", const="", metavar="JSON", help="write them into the README")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.idle_seconds = 1, 2.0, min(10.0, arguments.idle_seconds)
    for given, known in ((arguments.only, [r.key for r in table.ROWS] + [table.IDLE]), (arguments.systems, list(table.SYSTEMS))):
        if unknown := set(given or ()) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    arguments.http, arguments.grpc = (
        a.removeprefix("http://").removeprefix("grpc://").rstrip("/") for a in (arguments.http, arguments.grpc)
    )
    return arguments


if __name__ == "__main__":
    sys.exit(main())
