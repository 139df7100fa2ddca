"""Chaos: what clients feel when parts of the engine die, hang or change, under load; one table, and JSON in results/.

For each fault `serving bench run` sends REST and gRPC requests in an open loop (so that what waits is counted), the fault comes a quarter
into it, and what the generators saw is put beside how long the engine took to be whole again. The last two end the engine, late in the
load: who comes then finds a closed port, which is counted for itself. Exit code 1 when a fault hurt more than its row allows.
"""

from __future__ import annotations

import argparse
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
SERVING = str(Path(sys.executable).with_name("serving"))
WHOLE_S = 30.0
UNSENT = "not sent"
CLOSED = ("connect refused", "connect failed", "connect timeout")
"""Kinds of errors of those who come when the engine has ended."""
SOLO = "solo"
SOLO_RATE = 100.0
REFUSED = ("http 5xx", "grpc UNAVAILABLE")

REPLICA, ONLY, GATEWAY, EDGE, CONTROLLER = (
    f"ray::ServeReplica:{name}" for name in ("mlp@1", f"{SOLO}@1", "gateways", "edge", "controller")
)


@dataclass(frozen=True, slots=True)
class Fault:
    """name, what happens, and how many of all requests may fail (None: only counted).

    at    when it comes, as a part of the load
    solo  a model with one replica is asked, too, which may refuse its callers (503, UNAVAILABLE) and nothing else
    ends  whether it ends the engine
    """

    name: str
    act: Callable[[Site], None]
    allowed: int | None
    at: float = 0.25
    solo: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Hurt:
    """What one generator saw.

    unsent  due in the last moment, or when the engine had ended: no connection took them
    """

    requests: int
    failed: int
    unsent: int
    kinds: dict[str, int]
    p99_ms: float
    max_ms: float
    texts: list[str]


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
        document = declared()
        model = document["models"]["mlp"]
        for name, value in changes.items():
            (document if name == "gateways" else model)[name] = value
        file = self.scratch / "changed.yaml"
        file.write_text(yaml.safe_dump(document))
        subprocess.run([SERVING, "apply", str(file), "--url", f"http://{self.control}"], check=True, stdout=subprocess.DEVNULL)

    def another_version(self) -> None:
        """Have version 2 in place of version 1."""
        artefacts = declared()["models"]["mlp"]["versions"]
        self.apply(versions={2: artefacts[1]})

    def until(self, condition: Callable[[], object], what: str) -> None:
        limit = time.monotonic() + WHOLE_S
        while not condition():
            if time.monotonic() > limit:
                raise TimeoutError(f"not within {WHOLE_S:g} s: {what}")
            time.sleep(0.02)

    def end(self, act: Callable[[], object]) -> None:
        """End the engine, and return when its first process has gone."""
        process = self.running.process
        assert process is not None
        act()
        self.until(lambda: process.poll() is not None, "the engine has ended")

    def down(self) -> None:
        subprocess.run([SERVING, "down", "--url", f"http://{self.control}"], check=True, stdout=subprocess.DEVNULL)


def declared() -> dict[str, Any]:
    """Return configs/chaos.yaml with a second model, which has one replica."""
    document: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    model = document["models"]["mlp"]
    for version in model["versions"].values():
        version["artefact"] = str((CONFIG.parent / version["artefact"]).resolve())
    document["models"][SOLO] = {**model, "replicas": 1}
    return document


FAULTS = (
    Fault("nothing", lambda site: None, 0),
    Fault("kill -9 of one of two replicas", lambda site: site.send(REPLICA, signal.SIGKILL), 0),
    Fault("SIGSTOP of one of two replicas", lambda site: site.send(REPLICA, signal.SIGSTOP), 0),
    Fault("kill -9 of the only replica", lambda site: site.send(ONLY, signal.SIGKILL), 0, solo=True),
    Fault("kill -9 of one of two gateways", lambda site: site.send(GATEWAY, signal.SIGKILL), None),
    Fault("kill -9 of the edge", lambda site: site.send(EDGE, signal.SIGKILL), 0),
    Fault("kill -9 of the controller", lambda site: site.send(CONTROLLER, signal.SIGKILL), 0),
    Fault("apply: other batching", lambda site: site.apply(batching={"max_batch_size": 16}), 0),
    Fault("apply: one replica", lambda site: site.apply(replicas=1, batching={"max_batch_size": 16}), 0),
    Fault("apply: two replicas", lambda site: site.apply(replicas=2, batching={"max_batch_size": 64}), 0),
    Fault("apply: one gateway", lambda site: site.apply(gateways=1), 0),
    Fault("apply: two gateways", lambda site: site.apply(gateways=2), 0),
    Fault("apply: another version", lambda site: site.another_version(), 0),
    Fault("serving down", lambda site: site.end(site.down), 0, at=0.9, ends=True),
    Fault("SIGTERM", lambda site: site.end(lambda: os.kill(site.running.root, signal.SIGTERM)), 0, at=0.9, ends=True),
)


def strike(site: Site, fault: Fault, rate: float, seconds: float) -> dict[str, Any]:
    """Load, strike, and say what became of it."""
    loads = {
        "rest": ("rest", "mlp", 0.45 * rate, []),
        "rest, new connections": ("rest", "mlp", 0.1 * rate, ["--new-connection"]),
        "grpc": ("grpc", "mlp", 0.45 * rate, []),
    }
    if fault.solo:
        loads |= {f"{protocol}, {SOLO}": (protocol, SOLO, SOLO_RATE, []) for protocol in ("rest", "grpc")}
    outputs = {name: site.scratch / f"{number}.json" for number, name in enumerate(loads)}
    generators = []
    for name, (protocol, model, per_s, more) in loads.items():
        address = site.running.grpc if protocol == "grpc" else site.running.http
        argv = [
            SERVING, "bench", "run", "--url", f"http://{address}", "--model", model, "--protocol", protocol, "-q",
            "--rate", str(per_s), "--duration", str(seconds), "--timeout", "10", "--json", str(outputs[name]), *more,
        ]  # fmt: skip
        outputs[name].unlink(missing_ok=True)
        generators.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    time.sleep(1.0 + 2.0 + seconds * fault.at)  # starting, warming up, part of the load
    began = time.monotonic()
    fault.act(site)
    whole_s = time.monotonic() - began
    for generator in generators:
        _, said = generator.communicate(timeout=seconds + 60)
        if generator.returncode:
            raise RuntimeError(f"serving bench run: {said[-500:]}")
    hurt = {name: _read(output, fault.ends) for name, output in outputs.items()}
    failed = sum(h.failed for name, h in hurt.items() if SOLO not in name)
    told = all(kind in REFUSED for name, h in hurt.items() if SOLO in name for kind in h.kinds)
    return {
        "fault": fault.name,
        "rate": rate,
        "requests": sum(h.requests for h in hurt.values()),
        "failed": failed,
        "whole_again_s": round(whole_s, 2),
        "loads": {name: asdict(h) for name, h in hurt.items()},
        "passed": told and (fault.allowed is None or failed <= fault.allowed),
    }


def _read(file: Path, ended: bool) -> Hurt:
    found = json.loads(file.read_text())
    latency = found["latency_ms"]
    kinds = {kind: value["count"] for kind, value in found["errors_by_kind"].items()}
    unsent = sum(kinds.pop(kind, 0) for kind in (UNSENT, *(CLOSED if ended else ())))
    sent = found["answers"] + found["errors"] - unsent
    texts = [text for kind, value in found["errors_by_kind"].items() if kind in kinds for text in value["texts"]]
    return Hurt(sent, found["errors"] - unsent, unsent, kinds, latency["p99"], latency["max"], texts)


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
    rows: list[dict[str, Any]] = []
    lives = [[f for f in faults if not f.ends], *([f] for f in faults if f.ends)]
    for life in filter(None, lives):
        with tempfile.TemporaryDirectory(prefix="c-", ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "chaos.yaml"
            file.write_text(yaml.safe_dump(declared()))
            running = engine.launch("engine", file, Path(folder))
            try:
                site = Site(running, Path(folder))
                for fault in life:
                    rows.append(strike(site, fault, arguments.rate, arguments.seconds))
                    print("  ".join(cells(rows[-1])), flush=True)
            finally:
                running.stop()
    return told("chaos", HEADER, [cells(row) for row in rows], rows, arguments)


def told(name: str, header: Sequence[str], table: Sequence[Sequence[str]], rows: list[dict[str, Any]], said: argparse.Namespace) -> int:
    """Print the table, write the rows (where `--output` says, a whole run in any case), and return the exit code."""
    print(plain_table(header, table))
    if output := machine.keep(name, {"rows": rows}, said.output, not said.only):
        print(f"written: {output}")
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
