"""Load: wrk for REST and h2load for gRPC, closed loop, one generator thread, and what they counted."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_ticks_s, stolen_s
from benchmarks.process import Running, cpu_between
from benchmarks.workload import INFER, Workload

_WRK_SCRIPT = Path(__file__).parent / "post.lua"


class LoadFailed(Exception):
    """A generator could not run, or requests failed, or answers were not of the checked length."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    p50_ms, p99_ms   0 where the generator does not give them
    cpu_s_per_1000   CPU seconds of the server's whole tree for 1000 answers
    other_cores      what the rest of the machine did meanwhile, neither server nor generator: above 0.15 the run was disturbed
    stolen_cores     what the machine's host gave to others meanwhile (a virtual machine only): above 0.05 the run was disturbed
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    other_cores: float
    stolen_cores: float = 0.0

    @property
    def disturbed(self) -> bool:
        return self.other_cores > 0.15 or self.stolen_cores > 0.05

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    def to_json(self) -> dict[str, float]:
        """Only what was measured: zeros are left out."""
        values: dict[str, Any] = {**asdict(self), "per_s": self.per_s}
        return {name: round(value, 4) for name, value in values.items() if value or name == "other_cores"}


def missing_tools() -> list[str]:
    return [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]


def rest(server: Running, body: bytes, path: str, headers: dict[str, str], connections: int, seconds: float, scratch: Path) -> Measured:
    """POST `body` over `connections` keep-alive connections. Any status but 2xx fails the run."""
    file = scratch / "rest.body"
    file.write_bytes(body)
    given = [f"{name}: {value}" for name, value in headers.items()]
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(_WRK_SCRIPT)]
    for header in given:
        argv += ["-H", header]
    argv += [f"http://{server.http}{path}", "--", str(file)]
    output, cpu_s, other, stolen = _run(server, argv)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", output)
    if found is None:
        raise LoadFailed(f"wrk on {server.name}: {output[-500:]}")
    requests, failed, micros = (int(n) for n in found.groups()[:3])
    if failed or not requests:
        raise LoadFailed(f"{server.name} {path}: {failed} of {requests} requests failed")
    return Measured(requests, micros / 1e6, float(found[4]) / 1000, float(found[5]) / 1000, cpu_s / requests * 1000, other, stolen)


def grpc(
    server: Running, workload: Workload, answer_bytes: int, connections: int, seconds: float, scratch: Path, *, latency: bool = False
) -> Measured:
    """Unary calls, one stream per connection. h2load does not read grpc-status, so the bytes of the answers are checked.

    `latency` asks for percentiles: h2load then logs each request, which costs it a little.
    """
    file = scratch / "grpc.body"
    file.write_bytes(workload.grpc_body)
    log = scratch / "h2load.log"
    log.unlink(missing_ok=True)
    argv = ["h2load", "-t1", "-m1", f"-c{connections}", f"-D{seconds:g}", "-d", str(file)]
    for header in ("content-type: application/grpc", "te: trailers", "application: default"):  # the last one is Ray Serve's
        argv += ["-H", header]
    if latency:
        argv.append(f"--log-file={log}")
    output, cpu_s, other, stolen = _run(server, [*argv, f"http://{server.grpc}{INFER}"])
    counts = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    time = re.search(r"finished in ([\d.]+)(us|ms|s)", output)
    traffic = re.search(r"\((\d+)\) data", output)
    if counts is None or time is None or traffic is None:
        raise LoadFailed(f"h2load on {server.name}: {output[-500:]}")
    succeeded, failed = int(counts[3]), int(counts[4])
    elapsed = float(time[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[time[2]]
    if not succeeded or failed or int(traffic[1]) < succeeded * answer_bytes:
        raise LoadFailed(f"{server.name} gRPC {workload.model}: {counts[0]}; {traffic[1]} bytes of answers for {answer_bytes} each")
    p50, p99 = _percentiles(log) if latency else (0.0, 0.0)
    return Measured(succeeded, elapsed, p50, p99, cpu_s / succeeded * 1000, other, stolen)


def _run(server: Running, argv: list[str]) -> tuple[str, float, float, float]:
    """Run a generator; return its output, the server's CPU seconds, the cores that others used, and those that the host took."""
    generator, machine, steal, began = _children_s(), cpu_ticks_s(), stolen_s(), time.monotonic()
    before = server.cpu_s()
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    spent = cpu_between(before, server.cpu_s())
    elapsed = time.monotonic() - began
    if done.returncode != 0:
        raise LoadFailed(f"{argv[0]} on {server.name} ended with {done.returncode}: {done.stdout[-500:]}")
    other = (cpu_ticks_s() - machine - spent - (_children_s() - generator)) / elapsed
    return done.stdout, spent, max(0.0, round(other, 2)), round((stolen_s() - steal) / elapsed, 2)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _percentiles(log: Path) -> tuple[float, float]:
    micros = sorted(int(line.split(b"\t")[2]) for line in log.read_bytes().splitlines())
    return micros[len(micros) // 2] / 1000, micros[len(micros) * 99 // 100] / 1000
