"""What a load test found: one JSON document with a version, which reports, comparisons and gates read.

Times are milliseconds where a name ends in `_ms`, seconds where in `_s`. A figure is null where it was not or could not be measured: never
0 instead. Fields may be added within a version; one that changes its meaning makes a new version. The schema is checked in at
`benchmarks/results/result.schema.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from serving.bench.figures import (
    Client,
    ErrorKind,
    Figures,
    Interval,
    Latency,
    LoadFacts,
    Machine,
    Number,
    Run,
    Second,
    Server,
    Stability,
    Streaming,
    TargetFacts,
)
from serving.bench.histogram import Histogram
from serving.bench.interval import mean_interval
from serving.bench.metric import METRICS
from serving.bench.recording import Errors, Recording
from serving.bench.saturation import BUSY_CLIENT

SCHEMA_VERSION: Literal[1] = 1


class Result(Run):
    """The whole document."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = ""
    started_at: datetime
    slo_ms: Number = None
    load: LoadFacts
    target: TargetFacts
    requests: dict[str, Figures] = Field(default_factory=dict, description="the same by the request's name")
    timeline: list[Second] = Field(default_factory=list)
    streaming: Streaming | None = None
    stability: Stability | None = None
    repetitions: list[Run] = Field(default_factory=list)
    intervals: dict[str, Interval] = Field(
        default_factory=dict, description="figure (throughput, p99 …) → interval; from two repetitions on"
    )
    interleaved: str | None = Field(default=None, description="the same text in two results: their repetitions took turns and pair up")
    machine: Machine = Field(default_factory=Machine)
    versions: dict[str, str] = Field(default_factory=dict)
    command: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

    @classmethod
    def of(
        cls,
        recordings: Sequence[Recording],
        *,
        started_at: datetime,
        load: LoadFacts,
        target: TargetFacts,
        slo_ms: float | None = None,
        servers: Sequence[Server] = (),
        server: Server | None = None,
        **fields: Any,
    ) -> Result:
        """Return the document of one or several repetitions of the same load.

        `servers` has one entry per repetition (none: nothing is known of the server); `server` says it of the whole where that is
        not the mean of the repetitions. `fields`: name, streaming, stability, interleaved, machine, versions, command, warnings.
        ValueError without a recording.
        """
        if not recordings:
            raise ValueError("a result needs at least one recording")
        known = list(servers) or [Server()] * len(recordings)
        duration_s = sum(recording.wall_s for recording in recordings)
        whole = sum(recordings[1:], recordings[0])
        repetitions = [_repetition(recording, slo_ms, one) for recording, one in zip(recordings, known, strict=True)]
        early = ["ended before its time"] if whole.interrupted else []
        return cls(
            **_figures(whole.latency, whole.errors, whole.answered, duration_s, slo_ms),
            started_at=started_at, duration_s=duration_s, slo_ms=slo_ms, load=load, target=target,
            requests={
                name: Figures(**_figures(tally.latency, tally.errors, tally.answers, duration_s, slo_ms))
                for name, tally in whole.requests.items()
            },
            timeline=[second for number, recording in enumerate(recordings) for second in _seconds(number, recording)],
            server=server or mean_server(known),
            client=_client(whole),
            repetitions=repetitions,
            intervals=_intervals(repetitions),
            warnings=list(dict.fromkeys((*fields.pop("warnings", ()), *whole.warnings, *early))),
            **fields,
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Result:
        """Return the document in a file. ValueError says what is wrong with it, OSError that it cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = min(error.errors(), key=lambda one: one["loc"] != ("schema_version",))  # another version explains all else
            where = ".".join(map(str, first["loc"])) or "the document"
            raise ValueError(f"{path} is not a result of version {SCHEMA_VERSION}: {where}: {first['msg']}") from None

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """Return the JSON Schema of the document as it is written."""
        return Result.model_json_schema(mode="serialization")

    def write(self, path: Path) -> None:
        """Write the document as indented JSON."""
        path.write_text(self.text())

    def text(self) -> str:
        """Return the document as indented JSON with a line feed at its end."""
        return self.model_dump_json(indent=2) + "\n"

    def latency(self) -> Histogram:
        """Return all latencies; empty where the document has no histogram."""
        return Histogram.decode(self.histogram) if self.histogram else Histogram()


def mean_server(servers: Sequence[Server]) -> Server:
    """Return the means of several repetitions, batches added up, memory at its largest."""

    def mean(name: str) -> float | None:
        found = [value for server in servers if (value := getattr(server, name)) is not None]
        return sum(found) / len(found) if found else None

    def largest(name: str) -> int | None:
        return max((value for server in servers if (value := getattr(server, name)) is not None), default=None)

    sizes: Counter[str] = Counter()
    for server in servers:
        sizes.update(server.batch_sizes)
    return Server(
        queue_ms=mean("queue_ms"), compute_ms=mean("compute_ms"), network_ms=mean("network_ms"),
        batch_sizes=dict(sorted(sizes.items(), key=lambda item: int(item[0]))),
        cpu_s_per_1000=mean("cpu_s_per_1000"), cores=mean("cores"),
        rss_bytes=largest("rss_bytes"), pss_bytes=largest("pss_bytes"),
    )  # fmt: skip


def _repetition(recording: Recording, slo_ms: float | None, server: Server) -> Run:
    return Run(
        **_figures(recording.latency, recording.errors, recording.answered, recording.wall_s, slo_ms),
        duration_s=recording.wall_s,
        server=server,
        client=_client(recording),
    )


def _figures(latency: Histogram, errors: Mapping[str, Errors], answered: int, duration_s: float, slo_ms: float | None) -> dict[str, Any]:
    """Return the fields of Figures. `answered` came within the time; `latency` is of what began within it."""
    rate = answered / duration_s if duration_s > 0 else 0.0
    within = None if slo_ms is None else latency.at_most(round(slo_ms * 1e6))
    return {
        "answers": latency.count,
        "errors": sum(kind.count for kind in errors.values()),
        "throughput_rps": rate,
        # never above the throughput: what began in the time and was answered after it is in `within` only
        "goodput_rps": None if within is None else min(within / duration_s if duration_s > 0 else 0.0, rate),
        "latency_ms": Latency.of(latency),
        "errors_by_kind": {
            kind: ErrorKind(count=found.count, texts=found.texts) for kind, found in sorted(errors.items(), key=lambda item: -item[1].count)
        },
        "histogram": latency.encode(),
    }


def _client(recording: Recording) -> Client:
    answers = recording.answers
    return Client(
        cpu_s_per_1000=recording.client_cpu_s / answers * 1000 if answers else None,
        cores=recording.client_cpu_s / recording.wall_s if recording.wall_s > 0 else None,
        busiest=recording.client_busy,
        processes=recording.processes,
        connections=recording.connections,
        reconnects=recording.reconnects,
        sent_bytes=recording.sent_bytes,
        received_bytes=recording.received_bytes,
        lateness_ms=Latency.of(recording.lateness),
        saturated=recording.client_busy > BUSY_CLIENT,
    )


def _seconds(repetition: int, recording: Recording) -> Iterator[Second]:
    for at_s, second in sorted(recording.timeline.items()):
        latency = Latency.of(second.latency)
        yield Second(
            repetition=repetition, at_s=at_s, answers=second.answers, errors=second.errors,
            p50_ms=latency.p50, p99_ms=latency.p99, max_ms=latency.max,
        )  # fmt: skip


def _intervals(repetitions: Sequence[Run]) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for metric in METRICS.values():
        values = [value for one in repetitions if (value := metric.of(one)) is not None]
        if len(values) == len(repetitions) and len(values) > 1:
            mean, low, high = mean_interval(values)
            found[metric.name] = Interval(mean=mean, low=low, high=high)
    return found
