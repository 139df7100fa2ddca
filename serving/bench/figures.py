"""The pieces a result is made of: latencies, errors, seconds, what server and client used, and what was asked for.

Pydantic models, since they are read from files that other versions wrote. Units and nulls as in `result.py`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from serving.bench.histogram import Histogram
from serving.bench.interval import LEVEL

Number = float | None


class Part(BaseModel):
    """A piece of the document. Unknown fields are let through, so that older readers read newer documents of the same version."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Latency(Part):
    """Milliseconds; all null where nothing was answered."""

    p50: Number = None
    p90: Number = None
    p95: Number = None
    p99: Number = None
    p999: Number = None
    p9999: Number = None
    max: Number = None
    mean: Number = None
    min: Number = None

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Return the figures of a histogram of nanoseconds."""
        if not histogram.count:
            return cls()
        p50, p90, p95, p99, p999, p9999 = (_ms(ns) for ns in histogram.percentiles((50, 90, 95, 99, 99.9, 99.99)))
        return cls(
            p50=p50, p90=p90, p95=p95, p99=p99, p999=p999, p9999=p9999,
            max=_ms(histogram.max_ns), mean=_ms(histogram.mean_ns), min=_ms(histogram.min_ns),
        )  # fmt: skip


class ErrorKind(Part):
    """How often one kind of error came, and its first texts."""

    count: int
    texts: list[str] = Field(default_factory=list)


class Figures(Part):
    """What is said of a whole test and of each kind of request in it alike."""

    answers: int = Field(description="good answers to requests that began in the measured time")
    errors: int
    throughput_rps: float = Field(description="good answers that came in the measured time, per second")
    goodput_rps: Number = Field(default=None, description="good answers per second within slo_ms; null without an SLO")
    latency_ms: Latency
    errors_by_kind: dict[str, ErrorKind] = Field(default_factory=dict)
    histogram: str = Field(default="", description="of the latency in ns: HdrHistogram V2, compressed, base64")

    @property
    def error_share(self) -> float:
        """Errors in all requests, 0 where there was none."""
        return self.errors / (self.errors + self.answers) if self.errors else 0.0


class Second(Part):
    """One second of the measured time, as it was answered."""

    repetition: int = 0
    at_s: float = Field(description="since the beginning of its repetition's measured time")
    answers: int
    errors: int = 0
    p50_ms: Number = None
    p99_ms: Number = None
    max_ms: Number = None


class Server(Part):
    """What the server says of itself, and what its processes used."""

    queue_ms: Number = Field(default=None, description="mean time a request waited, from its statistics")
    compute_ms: Number = Field(default=None, description="mean time in the model, input and output included")
    network_ms: Number = Field(default=None, description="mean latency less queue and compute: wire, protocol and client")
    batch_sizes: dict[str, int] = Field(default_factory=dict, description="batch size → number of batches")
    cpu_s_per_1000: Number = Field(default=None, description="CPU seconds of its process tree per 1000 good answers")
    cores: Number = Field(default=None, description="CPU seconds of its process tree per second")
    rss_bytes: int | None = None
    pss_bytes: int | None = Field(default=None, description="resident memory, shared pages shared out")


class Client(Part):
    """What the load generator used, and whether it could keep up."""

    cpu_s_per_1000: Number = None
    cores: Number = Field(default=None, description="CPU seconds of the generator per second")
    busiest: Number = Field(default=None, description="the same of its busiest process: near 1 it is the bottleneck")
    processes: int = 1
    connections: int = 0
    reconnects: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    lateness_ms: Latency = Field(default_factory=Latency, description="sent after the intended time by")
    saturated: bool = Field(default=False, description="the busiest process used a whole core: the figures may be the generator's")


class Streaming(Part):
    """Requests with several answers each."""

    first_ms: Latency = Field(description="time to the first answer")
    between_ms: Latency = Field(description="from one answer to the next")
    answers_per_request: float


class Window(Part):
    """One measurement window of a search for a stable figure."""

    throughput_rps: float
    latency_ms: Number = Field(description="of the percentile that stability was asked of")


class Stability(Part):
    """Windows until three in a row agreed (or not)."""

    stable: bool
    within: float = Field(default=0.1, description="how far the last three may lie from their mean")
    percentile: str = "p50"
    windows: list[Window] = Field(default_factory=list)


class Run(Figures):
    """One run of a load: a repetition, or all of them together."""

    duration_s: float = Field(description="measured seconds, of all repetitions together")
    server: Server = Field(default_factory=Server)
    client: Client = Field(default_factory=Client)


class Interval(Part):
    """A mean over repetitions and where it lies with 95 % confidence (Student's t)."""

    mean: float
    low: float
    high: float
    level: float = LEVEL


class LoadFacts(Part):
    """The load that was asked for."""

    shape: Literal["closed", "open"] = "closed"
    concurrency: int | None = None
    rate_rps: Number = None
    arrivals: str | None = Field(default=None, description="of an open loop: constant, poisson, bursty, ramp, step, recorded")
    duration_s: Number = None
    max_requests: int | None = None
    warm_up_s: float = 0.0
    connections: int | None = None
    processes: int = 1
    timeout_s: Number = None
    seed: int | None = None
    batch: int | None = None

    @property
    def words(self) -> str:
        """Return the load in short: '16 at a time', '5,000/s poisson'."""
        if self.shape == "closed":
            return f"{self.concurrency or '?'} at a time"
        rate = f"{self.rate_rps:,.0f}/s" if self.rate_rps else "open"
        return f"{rate} {self.arrivals or ''}".strip()


class TargetFacts(Part):
    """What was measured."""

    url: str
    protocol: str = "rest"
    driver: str = "raw"
    server: str = Field(default="", description="name and version as the server gives them")
    model: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict, description="the model's metadata as the server gives it")


class Machine(Part):
    """What the generator ran on (and the server, where its address is local). No names of hosts."""

    processor: str = ""
    cores: int = 0
    memory_gib: int = 0
    kernel: str = ""
    python: str = ""


def _ms(ns: float) -> float:
    return round(ns / 1e6, 6)
