"""A load by `serving bench`: its generator, its view of the server's processes, its results.

The bytes of a request are made elsewhere, so that the same program sends them to servers which do not speak the Open Inference Protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.ask import Ask, LoadFailed, Measured
from benchmarks.disturbance import Disturbance
from benchmarks.process import Running
from serving.bench import machine
from serving.bench.figures import LoadFacts, Server, TargetFacts
from serving.bench.fleet import generate
from serving.bench.load import Closed, Load
from serving.bench.process_tree import ProcessTree
from serving.bench.recording import Recording
from serving.bench.request import Request
from serving.bench.result import Result
from serving.bench.watch import Watch

WARM_UP_S = 1.0
ERRORS_AT_MOST = 0.01
"""A server that fails more of its requests than this is not measured by what is left."""


@dataclass(frozen=True, slots=True)
class Once:
    """One run: what `serving bench` recorded of the client and of the server."""

    recording: Recording
    server: Server
    measured: Measured


def measure(server: Running, ask: Ask, connections: int, seconds: float) -> Once:
    """Send `ask` in a closed loop over so many connections. Raises LoadFailed where there are no answers, or too many errors."""
    watch = Watch(ProcessTree(server.members()))
    request = Request(ask.model, ask.path, tuple(ask.headers.items()), ask.body, check=ask.check)
    address = server.http if ask.protocol == "rest" else server.grpc
    with Disturbance(server) as around:
        recording = generate(address, ask.protocol, [request], load(connections, seconds), watch.told)
        found = watch.server(recording)
    answers, errors = recording.answers, recording.failed
    if not answers or errors > ERRORS_AT_MOST * answers or found.cpu_s_per_1000 is None:
        words = "; ".join(f"{kind}: {one.count} ({', '.join(one.texts)})" for kind, one in recording.errors.items())
        raise LoadFailed(f"{server.name} {ask.path}: {answers} answers, {errors} errors {words[:500]}")
    p50, p99 = (ns / 1e6 for ns in recording.latency.percentiles((50, 99)))
    client = recording.client_cpu_s / answers * 1000
    disturbed = around.other_cores, around.stolen_cores
    return Once(
        recording, found, Measured(recording.answered, recording.wall_s, p50, p99, found.cpu_s_per_1000, client, *disturbed, errors)
    )


def load(connections: int, seconds: float) -> Load:
    return Load(Closed(connections), duration_s=seconds, warm_up_s=WARM_UP_S)


def result(runs: Sequence[Once], ask: Ask, title: str, url: str, connections: int, seconds: float, interleaved: str) -> Result:
    """Return the rounds of one system as the document that `serving bench report` and `compare` read.

    interleaved: the same text for all systems of a sitting, so that their rounds are compared in pairs.
    """
    asked = load(connections, seconds)
    return Result.of(
        [one.recording for one in runs],
        started_at=datetime.now(UTC),
        load=LoadFacts(concurrency=connections, duration_s=seconds, warm_up_s=asked.warm_up_s, timeout_s=asked.timeout_s),
        target=TargetFacts(url=url, protocol=ask.protocol, server=title, model=ask.model),
        servers=[one.server for one in runs],
        name=f"{title}: {ask.model}",
        machine=machine.machine(),
        versions=machine.versions(),
        interleaved=interleaved,
    )
