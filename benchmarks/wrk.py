"""A load by wrk (REST) or h2load (gRPC): closed loop, one thread, and what they counted. What `serving bench` is checked by."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.ask import Ask, LoadFailed, Measured
from benchmarks.disturbance import Disturbance
from benchmarks.process import Running

_WRK_SCRIPT = Path(__file__).parent / "post.lua"


def missing_tools() -> list[str]:
    return [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]


def measure(server: Running, ask: Ask, connections: int, seconds: float, scratch: Path) -> Measured:
    """Warm up for a second, then send `ask` over so many connections; `scratch` takes files. Raises LoadFailed."""
    send = _wrk if ask.protocol == "rest" else _h2load
    send(server, ask, connections, 1.0, scratch)
    return send(server, ask, connections, seconds, scratch)


def _wrk(server: Running, ask: Ask, connections: int, seconds: float, scratch: Path) -> Measured:
    """Any status but 2xx fails the run; answers are not looked at."""
    file = scratch / "rest.body"
    file.write_bytes(ask.body)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(_WRK_SCRIPT)]
    for name, value in ask.headers.items():
        argv += ["-H", f"{name}: {value}"]
    argv += [f"http://{server.http}{ask.path}", "--", str(file)]
    output, around = _run(server, argv)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", output)
    if found is None:
        raise LoadFailed(f"wrk on {server.name}: {output[-500:]}")
    requests, failed, micros = (int(n) for n in found.groups()[:3])
    if failed or not requests:
        raise LoadFailed(f"{server.name} {ask.path}: {failed} of {requests} requests failed")
    return _measured(requests, micros / 1e6, float(found[4]) / 1000, float(found[5]) / 1000, around)


def _h2load(server: Running, ask: Ask, connections: int, seconds: float, scratch: Path) -> Measured:
    """Unary calls, one stream per connection. h2load does not read grpc-status, so the bytes of the answers are counted."""
    file, log = scratch / "grpc.body", scratch / "h2load.log"
    file.write_bytes(ask.body)
    log.unlink(missing_ok=True)
    argv = ["h2load", "-t1", "-m1", f"-c{connections}", f"-D{seconds:g}", "-d", str(file), f"--log-file={log}"]
    for name, value in {"content-type": "application/grpc", "te": "trailers", **ask.headers}.items():
        argv += ["-H", f"{name}: {value}"]
    output, around = _run(server, [*argv, f"http://{server.grpc}{ask.path}"])
    counts = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    time = re.search(r"finished in ([\d.]+)(us|ms|s)", output)
    traffic = re.search(r"\((\d+)\) data", output)
    if counts is None or time is None or traffic is None:
        raise LoadFailed(f"h2load on {server.name}: {output[-500:]}")
    succeeded, failed = int(counts[3]), int(counts[4])
    elapsed = float(time[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[time[2]]
    if not succeeded or failed or int(traffic[1]) < succeeded * ask.answer_bytes:
        raise LoadFailed(f"{server.name} gRPC {ask.model}: {counts[0]}; {traffic[1]} bytes of answers for {ask.answer_bytes} each")
    return _measured(succeeded, elapsed, *percentiles(log), around)


def percentiles(log: Path) -> tuple[float, float]:
    """Return p50 and p99 in ms of what `h2load --log-file` wrote."""
    micros = sorted(int(line.split(b"\t")[2]) for line in log.read_bytes().splitlines())
    return micros[len(micros) // 2] / 1000, micros[len(micros) * 99 // 100] / 1000


def _run(server: Running, argv: list[str]) -> tuple[str, Disturbance]:
    with Disturbance(server) as around:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise LoadFailed(f"{argv[0]} on {server.name} ended with {done.returncode}: {done.stdout[-500:]}")
    return done.stdout, around


def _measured(requests: int, seconds: float, p50_ms: float, p99_ms: float, around: Disturbance) -> Measured:
    server, client = (cpu_s / requests * 1000 for cpu_s in (around.server_cpu_s, around.generator_cpu_s))
    return Measured(requests, seconds, p50_ms, p99_ms, server, client, around.other_cores, around.stolen_cores)
