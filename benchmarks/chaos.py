"""Chaos: what clients feel when parts of the engine die, hang or change, under load; one table, and JSON in results/.

For each fault `serving bench run` sends REST and gRPC requests in an open loop (so that what waits is counted), the fault comes a quarter
into it, and what the generators saw is put beside how long the engine took to be whole again. Exit code 1 when a fault hurt more than
its row allows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import machine
from benchmarks.peers import engine
from benchmarks.process import Running
from benchmarks.table import plain_table

CONFIG = Path(__file__).parents[1] / "configs" / "chaos.yaml"
RESULTS = Path(__file__).parent / "results"
SERVING = str(Path(sys.executable).with_name("serving"))
WHOLE_S = 30.0
UNSENT = "not sent"

REPLICA, GATEWAY, EDGE, CONTROLLER = (f"ray::ServeReplica:{name}" for name in ("mlp@1", "gateways", "edge", "controller"))


@dataclass(frozen=True, slots=True)
class Fault:
    """name, what happens, and how many of all requests may fail (None: only counted)."""

    name: str
    act: Callable[[Site], None]
    allowed: int | None


@dataclass(frozen=True, slots=True)
class Hurt:
    """What one generator saw. unsent: due in the last moment; their connections were still being opened when the run ended."""

    requests: int
    failed: int
    unsent: int
    kinds: dict[str, int]
    p99_ms: float
    max_ms: float


class Site:
    """A running engine, and what can be done to it."""

    def __init__(self, running: Running, scratch: Path) -> None:
        self.running = running
        self.scratch = scratch
        log = (scratch / "log").read_text()
        self.control = log.partition("control http://")[2].split()[0]

    def processes(self, title: str) -> list[int]:
        found = []
        for pid, stat in self.running.members().items():
            try:
                if stat.state != "Z" and title.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
            except OSError:
                continue
        return found

    def send(self, title: str, sign: signal.Signals) -> None:
        """Send a signal to one process of that title, and wait until another has its place."""
        before = self.processes(title)
        os.kill(before[0], sign)
        self.until(lambda: before[0] not in (now := self.processes(title)) and len(now) == len(before), f"{title} is replaced")

    def apply(self, **changes: Any) -> None:
        """Apply the file with other settings: of the engine (gateways) or of the model (replicas, batching)."""
        document = yaml.safe_load(CONFIG.read_text())
        model = document["models"]["mlp"]
        for version in model["versions"].values():
            version["artefact"] = str((CONFIG.parent / version["artefact"]).resolve())
        for name, value in changes.items():
            (document if name == "gateways" else model)[name] = value
        file = self.scratch / "changed.yaml"
        file.write_text(yaml.safe_dump(document))
        subprocess.run([SERVING, "apply", str(file), "--url", f"http://{self.control}"], check=True, stdout=subprocess.DEVNULL)

    def until(self, condition: Callable[[], object], what: str) -> None:
        limit = time.monotonic() + WHOLE_S
        while not condition():
            if time.monotonic() > limit:
                raise TimeoutError(f"not within {WHOLE_S:g} s: {what}")
            time.sleep(0.02)


FAULTS = (
    Fault("nothing", lambda site: None, 0),
    Fault("kill -9 of one of two replicas", lambda site: site.send(REPLICA, signal.SIGKILL), 0),
    Fault("SIGSTOP of one of two replicas", lambda site: site.send(REPLICA, signal.SIGSTOP), 0),
    Fault("kill -9 of one of two gateways", lambda site: site.send(GATEWAY, signal.SIGKILL), None),
    Fault("kill -9 of the edge", lambda site: site.send(EDGE, signal.SIGKILL), 0),
    Fault("kill -9 of the controller", lambda site: site.send(CONTROLLER, signal.SIGKILL), 0),
    Fault("apply: other batching", lambda site: site.apply(batching={"max_batch_size": 16}), 0),
    Fault("apply: one replica", lambda site: site.apply(replicas=1, batching={"max_batch_size": 16}), 0),
    Fault("apply: two replicas", lambda site: site.apply(replicas=2, batching={"max_batch_size": 64}), 0),
    Fault("apply: one gateway", lambda site: site.apply(gateways=1), 0),
    Fault("apply: two gateways", lambda site: site.apply(gateways=2), 0),
)


def strike(site: Site, fault: Fault, rate: float, seconds: float) -> dict[str, Any]:
    """Load, strike, and say what became of it."""
    loads = {
        "rest": ("rest", site.running.http, []),
        "rest, new connections": ("rest", site.running.http, ["--new-connection"]),
        "grpc": ("grpc", site.running.grpc, []),
    }
    shares = {"rest": 0.45, "rest, new connections": 0.1, "grpc": 0.45}
    outputs = {name: site.scratch / f"{number}.json" for number, name in enumerate(loads)}
    generators = []
    for name, (protocol, address, more) in loads.items():
        argv = [
            SERVING, "bench", "run", "--url", f"http://{address}", "--model", "mlp", "--protocol", protocol, "-q",
            "--rate", str(rate * shares[name]), "--duration", str(seconds), "--timeout", "10", "--json", str(outputs[name]), *more,
        ]  # fmt: skip
        outputs[name].unlink(missing_ok=True)
        generators.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    time.sleep(1.0 + 2.0 + seconds / 4)  # starting, warming up, a quarter of the load
    began = time.monotonic()
    fault.act(site)
    whole_s = time.monotonic() - began
    for generator in generators:
        _, said = generator.communicate(timeout=seconds + 60)
        if generator.returncode:
            raise RuntimeError(f"serving bench run: {said[-500:]}")
    hurt = {name: _read(output) for name, output in outputs.items()}
    failed = sum(h.failed for h in hurt.values())
    return {
        "fault": fault.name,
        "rate": rate,
        "requests": sum(h.requests for h in hurt.values()),
        "failed": failed,
        "whole_again_s": round(whole_s, 2),
        "loads": {name: asdict(h) for name, h in hurt.items()},
        "passed": fault.allowed is None or failed <= fault.allowed,
    }


def _read(file: Path) -> Hurt:
    found = json.loads(file.read_text())
    latency = found["latency_ms"]
    kinds = _kinds(found["errors_by_kind"])
    unsent = kinds.pop(UNSENT, 0)
    sent = found["answers"] + found["errors"] - unsent
    return Hurt(sent, found["errors"] - unsent, unsent, kinds, latency["p99"], latency["max"])


def _kinds(kinds: dict[str, Any]) -> dict[str, int]:
    return {kind: value if isinstance(value, int) else value["count"] for kind, value in kinds.items()}


def cells(row: dict[str, Any]) -> Sequence[str]:
    loads = row["loads"]
    worst = max(loads.values(), key=lambda load: load["max_ms"])
    kinds: dict[str, int] = {}
    for load in loads.values():
        for kind, count in load["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + count
    return (
        row["fault"], f"{row['requests']:,}", f"{row['failed']:,}", ", ".join(f"{n} {k}" for k, n in kinds.items()) or "–",
        f"{max(load['p99_ms'] for load in loads.values()):.0f}", f"{worst['max_ms']:.0f}", f"{row['whole_again_s']:.1f}",
        "" if row["passed"] else "FAIL",
    )  # fmt: skip


HEADER = ("fault", "requests", "failed", "how", "p99 ms", "max ms", "whole again s", "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Kills, stops and changes parts of an engine under load.")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second, REST and gRPC together")
    parser.add_argument("--seconds", type=float, default=12.0, help="of load for each fault")
    parser.add_argument("--only", help="faults whose name contains this")
    parser.add_argument("--output", type=Path, help="JSON; a whole run writes benchmarks/results/chaos-DATE.json")
    arguments = parser.parse_args()
    faults = [f for f in FAULTS if not arguments.only or arguments.only in f.name]
    if not faults:
        parser.error(f"unknown; there are: {', '.join(f.name for f in FAULTS)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True) as folder:
        running = engine.launch("engine", CONFIG, Path(folder))
        try:
            site = Site(running, Path(folder))
            for fault in faults:
                row = strike(site, fault, arguments.rate, arguments.seconds)
                rows.append(row)
                print("  ".join(cells(row)), flush=True)
        finally:
            running.stop()
    return told("chaos", HEADER, [cells(row) for row in rows], rows, arguments)


def told(name: str, header: Sequence[str], table: Sequence[Sequence[str]], rows: list[dict[str, Any]], said: argparse.Namespace) -> int:
    """Print the table, write the rows (where `--output` says, a whole run in any case), and return the exit code."""
    print(plain_table(header, table))
    today = str(datetime.date.today())
    output = said.output or (None if said.only else RESULTS / f"{name}-{today}.json")
    if output is not None:
        output.write_text(json.dumps({"date": today, "machine": machine.describe(triton=""), "rows": rows}, indent=1) + "\n")
        print(f"written: {output}")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
