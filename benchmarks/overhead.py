"""Measures the engine against its peers on one machine in one run, and checks the floors of table.py.

Every round starts each system alone, loads it, and stops it; the next round goes through them the other way round. What is compared are
medians over the rounds. Answers are checked against the model before each load.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import load, machine, table
from benchmarks.peers import engine, triton
from benchmarks.process import Running
from benchmarks.sitting import Choice, Sitting

RESULTS = Path(__file__).parent / "results"


def show(runs: table.Runs) -> bool:
    """Print the floors; return whether all that were measured hold."""
    print(table.plain_table(table.HEADER, [table.cells(v) for v in table.verdicts(runs)]))
    return all(v.passed for v in table.verdicts(runs))


def main() -> int:
    arguments = _arguments()
    if arguments.markdown is not None:
        file = Path(arguments.markdown) if arguments.markdown else max(RESULTS.glob("overhead-*.json"), default=None)
        if file is None:
            print("no results yet: run scripts/bench-overhead first", file=sys.stderr)
            return 1
        found = json.loads(file.read_text())
        print(table.markdown(found["runs"], found["machine"], found["date"], found["rounds"]), end="")
        return 0
    if missing := load.missing_tools():
        print(f"{' and '.join(missing)} must be installed (Debian: apt install wrk nghttp2-client)", file=sys.stderr)
        return 2
    keys = frozenset(arguments.only or [*(row.key for row in table.ROWS), table.IDLE])
    systems = frozenset(arguments.systems or table.SYSTEMS)
    choice = Choice(keys, systems, arguments.rounds, arguments.seconds, arguments.idle_seconds, arguments.config.resolve())
    given = Running("engine", arguments.pid, "", arguments.http, arguments.grpc) if arguments.http else None
    if "triton" in systems:
        triton.install()
    with tempfile.TemporaryDirectory(prefix="b-") as scratch:
        sitting = Sitting(choice, given, Path(scratch))
        sitting.measure()
    passed = show(sitting.runs)
    whole = not (arguments.only or arguments.systems or arguments.quick or arguments.http)
    output = arguments.output or (RESULTS / f"overhead-{datetime.date.today()}.json" if whole else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(_document(sitting), indent=1) + "\n")
        print(f"written: {output}")
    for failure in sitting.failures:
        print(f"not measured: {failure.splitlines()[0]}", file=sys.stderr)
    return 0 if passed and not sitting.failures else 1


def _document(sitting: Sitting) -> dict[str, object]:
    floors = [
        {"row": v.floor.row, "measure": v.floor.measure, "against": v.floor.against, "bound": v.floor.bound, "limit": v.floor.limit}
        | {"ours": v.ours, "theirs": v.theirs, "ratio": round(v.ratio, 4), "passed": v.passed}
        for v in table.verdicts(sitting.runs)
    ]
    return {
        "date": str(datetime.date.today()),
        "machine": machine.describe(triton=triton.VERSION),
        "rounds": sitting.choice.rounds,
        "seconds": sitting.choice.seconds,
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
    parser.add_argument("--output", type=Path, help="JSON file; a whole run writes benchmarks/results/overhead-DATE.json")
    parser.add_argument("--markdown", nargs="?", const="", metavar="JSON", help="print the README's table of the newest (or this) result")
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
