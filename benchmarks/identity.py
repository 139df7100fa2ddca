"""Identity: every input carries who it is, every answer is held against its request, while replicas and gateways are killed.

    scripts/identity [--requests 1000000] [--every 10]

Three generators send rows that are all different to a model that gives back what it gets: REST and gRPC with mixed sizes and batches, a
stream, and clients that give up after a few milliseconds. Every answer is compared byte for byte. A request may never get the answer of
another, nor two, nor none; it may fail where it was in a gateway that was killed, which are at most as many for each kill as a client
has under way. One table, and JSON in results/; exit code 1 for one wrong or lost answer, or one failure too many.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import machine
from benchmarks.chaos import SERVING, Site
from benchmarks.peers import engine
from benchmarks.process import Running
from benchmarks.table import plain_table

ROWS = 4096
GATEWAYS = "gateways"
WIDE = 25_000
"""Numbers in a row of 100 KB: it goes through shared memory, and a batch of such rows through a thread of its own."""
WRONG = ("wrong body", "bad answer")
"""Kinds of errors that no kill explains."""


MAY_FAIL = (
    "what a client has under way, times the gateways that were killed: their requests and streams go with them (reset, UNAVAILABLE, and of "
    "grpcio's own making INTERNAL 'Internal error from Core', where it was writing); no others may fail"
)
GIVEN_UP = ("timeout", "connect timeout")
"""Kinds of errors of a client that waits for a few milliseconds only."""


@dataclass(frozen=True, slots=True)
class Client:
    """One generator: its share of all requests, how many it has under way, and what its command line adds."""

    name: str
    share: float
    under_way: int
    arguments: tuple[str, ...]
    impatient: bool = False


CLIENTS = (
    Client("REST", 0.48, 32, ("--protocol", "rest", "--timeout", "20")),
    Client("gRPC", 0.4, 32, ("--protocol", "grpc", "--timeout", "20")),
    Client("stream", 0.1, 8, ("--protocol", "grpc", "--streaming", "--timeout", "20")),
    Client("REST, gives up after 8 ms", 0.02, 8, ("--protocol", "rest", "--timeout", "0.008"), impatient=True),
)


def config() -> dict[str, Any]:
    """Two of everything; a model of small rows and one of large ones."""
    artefact = str(Path(__file__).parent / "models" / "echo.py")

    def echo(width: int) -> dict[str, Any]:
        return {
            "versions": {1: {"artefact": artefact, "runtime": "torch", "entry": "Echo"}},
            "signature": {
                "inputs": [{"name": "x", "dtype": "FP32", "shape": [width]}],
                "outputs": [{"name": "y", "dtype": "FP32", "shape": [width]}],
            },
            "batching": {"max_batch_size": 64},
            "execution": "inline",
            "replicas": 2,
        }

    return {"gateways": 2, "models": {"echo": echo(16), "wide": echo(WIDE)}}


def rows(folder: Path, width: int, count: int) -> tuple[str, str]:
    """Write rows that are all different, and what their answers have to be; return both files."""
    x = np.random.default_rng(width).standard_normal((count, width), dtype=np.float32)
    x[:, 0] = np.arange(count)
    given, wanted = folder / f"x{width}.npz", folder / f"y{width}.npz"
    np.savez(given, x=x)
    np.savez(wanted, y=x)
    return str(given), str(wanted)


def scenario(folder: Path, streams: bool) -> Path:
    """Write what is asked for: small rows alone and in batches, large rows."""
    small, large = rows(folder, 16, ROWS), rows(folder, WIDE, ROWS // 16)
    asked: list[dict[str, Any]] = [{"model": "echo", "weight": 60, "input": small[0], "expect": small[1]}]
    if not streams:
        asked += [
            {"model": "echo", "batch_size": 7, "weight": 36, "input": small[0], "expect": small[1]},
            {"model": "wide", "weight": 3, "input": large[0], "expect": large[1]},
            {"model": "wide", "batch_size": 3, "weight": 1, "input": large[0], "expect": large[1]},
        ]
    for request in asked:
        request["samples"] = ROWS
    file = folder / f"scenario-{streams}.yaml"
    file.write_text(yaml.safe_dump({"requests": asked}))
    return file


class Killer(threading.Thread):
    """Kills a replica or a gateway now and then, and waits each time until another has its place."""

    def __init__(self, site: Site, every_s: float, seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self.killed: list[str] = []
        self.fault = ""
        self._site = site
        self._every_s = every_s
        self._dice = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._every_s):
            title = self._dice.choice(("echo@1", "wide@1", GATEWAYS))
            try:
                self._site.send(f"ray::ServeReplica:{title}", signal.SIGKILL)
            except (TimeoutError, IndexError, ProcessLookupError) as error:
                self.fault = f"after {len(self.killed)} kills: {error}"
                return
            self.killed.append(title)

    def stop(self) -> None:
        self._over.set()
        self.join(60.0)


def run(running: Running, folder: Path, requests: int, every_s: float, seed: int) -> dict[str, Any]:
    """Send, kill, and say what came back."""
    killer = Killer(Site(running, folder), every_s, seed)
    generators: list[tuple[Client, Path, subprocess.Popen[str]]] = []
    for number, client in enumerate(CLIENTS):
        output = folder / f"{number}.json"
        grpc = "grpc" in client.arguments
        file = scenario(folder, "--streaming" in client.arguments)
        url = f"http://{running.grpc if grpc else running.http}"
        argv = [
            SERVING, "bench", "run", "--url", url, "--scenario", str(file), "-q", "--check-share", "1", "--duration", "0",
            "--max-requests", str(int(requests * client.share)), "--seed", str(seed), "--json", str(output),
            "--concurrency", str(client.under_way), *client.arguments,
        ]  # fmt: skip
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        generators.append((client, output, process))
    began = time.monotonic()
    killer.start()
    rows = []
    try:
        for client, output, generator in generators:
            _, said = generator.communicate(timeout=3600)
            if generator.returncode:
                raise RuntimeError(f"serving bench run for {client.name}: {said[-500:]}")
            rows.append(judged(client, int(requests * client.share), json.loads(output.read_text()), killer.killed.count(GATEWAYS)))
    finally:
        killer.stop()
        for _, _, generator in generators:
            if generator.poll() is None:
                os.kill(generator.pid, signal.SIGINT)
                generator.wait(60)
    wrong, lost = sum(row["wrong"] for row in rows), sum(row["lost"] for row in rows)
    too_many = [row["client"] for row in rows if row["failed"] > row["may_fail"]]
    return {
        "seconds": round(time.monotonic() - began, 1),
        "killed": {title: killer.killed.count(title) for title in sorted(set(killer.killed))},
        "not_replaced": killer.fault,
        "answers": sum(row["answers"] for row in rows),
        "wrong": wrong,
        "lost": lost,
        "may_fail_is": MAY_FAIL,
        "clients": rows,
        "passed": not (wrong or lost or too_many or killer.fault),
    }


def judged(client: Client, asked: int, found: dict[str, Any], gateways_killed: int) -> dict[str, Any]:
    """Return what became of the requests of one generator. lost: neither answered nor failed."""
    kinds = {kind: value["count"] for kind, value in found["errors_by_kind"].items()}
    given_up = sum(count for kind, count in kinds.items() if client.impatient and kind in GIVEN_UP)
    wrong = sum(count for kind, count in kinds.items() if kind in WRONG)
    return {
        "client": client.name,
        "requests": asked,
        "answers": found["answers"],
        "wrong": wrong,
        "given_up": given_up,
        "failed": found["errors"] - given_up - wrong,
        "may_fail": gateways_killed * client.under_way,
        "lost": asked - found["answers"] - found["errors"],
        "errors": {kind: {"count": value["count"], "texts": value["texts"]} for kind, value in found["errors_by_kind"].items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/identity", description="Looks whether any answer ever goes to another request.")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON; a million requests are written to benchmarks/results/identity-DATE.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="i-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        file = folder / "identity.yaml"
        file.write_text(yaml.safe_dump(config()))
        running = engine.launch("engine", file, folder)
        try:
            found = run(running, folder, arguments.requests, arguments.every, arguments.seed)
        finally:
            running.stop()
    cells = [
        (
            row["client"],
            f"{row['answers']:,}",
            f"{row['given_up']:,}",
            f"{row['failed']:,} of {row['may_fail']:,}",
            f"{row['wrong']}",
            f"{row['lost']}",
        )
        for row in found["clients"]
    ]
    print(plain_table(("client", "answers, each its own", "given up", "failed, of allowed", "wrong", "lost"), cells))
    killed = ", ".join(f"{count} × {title}" for title, count in found["killed"].items()) or "nothing"
    print(f"killed: {killed}; {found['answers']:,} answers in {found['seconds']:g} s, {found['wrong']} wrong {found['not_replaced']}")
    if output := machine.keep("identity", found, arguments.output, arguments.requests >= 1_000_000):
        print(f"written: {output}")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
