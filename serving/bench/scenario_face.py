"""The face of a scenario's YAML: its words, types, bounds and defaults, as pydantic models. The JSON Schema is made from them.

Strict like the engine's own (`spec/face.py`), whose base and kinds of values it uses. Defaults are those of the values behind it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from serving.bench.encode import Encoding
from serving.bench.load import Load, Open
from serving.bench.scenario import Asked, Driver, Scenario
from serving.bench.target import Wire
from serving.spec.face import Seconds, Text, Version
from serving.spec.strict import Face


def _default(cls: type, name: str) -> Any:
    return cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]


Rate = Annotated[float, Field(gt=0, le=10_000_000)]
Arrival = Literal["constant", "poisson", "bursty"]
DEFAULT_CONCURRENCY = 1


class RequestFace(Face):
    """Requests for one model."""

    model: Text = Field(description="Name of the model.")
    version: Version = Field(default=_default(Asked, "version"), description="Its version. Left out: the one that the server takes.")
    name: str = Field(default="", description="Its row in the report. Left out: the model, its version and the batch size.")
    weight: float = Field(
        default=_default(Asked, "weight"), gt=0, le=1e9, description="Its share of all requests, relative to the weights of the others."
    )
    batch_size: int = Field(default=_default(Asked, "batch_size"), ge=1, le=65_536, description="Rows in a request.")
    shapes: dict[str, list[Annotated[int, Field(ge=1)]]] = Field(
        default_factory=dict,
        description="Sizes of inputs that have dimensions of any size, by input; with or without the batch dimension.",
        examples=[{"x": [3, 224, 224]}],
    )
    input: Text | None = Field(
        default=None, description="File with inputs (.npy, .npz, .json, .parquet), relative to this file. Left out: random ones."
    )
    expect: Text | None = Field(default=None, description="File with the outputs that belong to the rows of `input`.")
    encoding: Encoding | None = Field(
        default=_default(Asked, "encoding"), description="How tensors travel over REST; binary, unless the server has JSON only."
    )
    outputs: list[Text] = Field(default_factory=list, description="Outputs to ask for. Empty: all.")
    samples: int = Field(default=_default(Asked, "samples"), ge=1, le=100_000, description="Different requests, at most.")


class RampFace(Face):
    """A rate that grows (or falls) evenly."""

    first: float = Field(default=0.0, ge=0, description="Requests a second at the beginning.")
    last: Rate = Field(description="Requests a second at the end, and from then on.")
    over_s: Seconds = Field(description="Seconds from the first to the last.")


class StepFace(Face):
    """One rate for some time."""

    rate: float = Field(ge=0, le=10_000_000, description="Requests a second; 0 is a pause.")
    seconds: Seconds = Field(description="How long.")


class LoadFace(Face):
    """How much is sent: one of concurrency, rate, ramp, steps and recorded."""

    concurrency: int | None = Field(default=None, ge=1, le=100_000, description="Closed loop: so many requests are always under way.")
    rate: Rate | None = Field(default=None, description="Open loop: requests a second, whatever the server does.")
    ramp: RampFace | None = Field(default=None, description="Open loop: a rate that grows evenly.")
    steps: list[StepFace] | None = Field(default=None, min_length=1, description="Open loop: rates one after another.")
    repeat_steps: bool = Field(default=False, description="Whether the steps begin again at their end; else the last one holds.")
    recorded: Text | None = Field(
        default=None, description="Open loop: file with the times of requests, one number of seconds a line; relative to this file."
    )
    speed: Rate = Field(default=1.0, description="How much faster than recorded.")
    arrivals: Arrival = Field(
        default="poisson",
        description="How an open loop's requests come at a rate: evenly, independently, or in clusters (bursty: rate only).",
    )
    burstiness: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=0.25, description="Of bursty arrivals, the shape of the gamma gaps: 1 is poisson, less comes in clusters."
    )
    max_in_flight: int = Field(
        default=_default(Open, "max_in_flight"),
        ge=1,
        le=100_000,
        description="Open loop: requests under way at most; what is due beyond them waits in the client, and that counts.",
    )
    duration_s: float = Field(
        default=_default(Load, "duration_s"), ge=0, le=86_400, description="Of the measurement. 0: until max_requests are answered."
    )
    max_requests: int = Field(default=_default(Load, "max_requests"), ge=0, le=10**12, description="Of the measurement; 0: no bound.")
    warm_up_s: float = Field(default=1.0, ge=0, le=86_400, description="The same load before the measurement, which is not counted.")
    processes: int = Field(default=_default(Load, "processes"), ge=1, le=256, description="Processes that send.")
    connections: int = Field(
        default=_default(Load, "connections"), ge=0, le=100_000, description="Connections, at most. 0: as many as requests under way."
    )
    streams: int = Field(default=_default(Load, "streams"), ge=1, le=1000, description="Requests at a time on one connection (gRPC only).")
    new_connection: bool = Field(default=_default(Load, "new_connection"), description="Whether every request opens its own connection.")
    timeout_s: Seconds = Field(default=_default(Load, "timeout_s"), description="After this time a request counts as failed.")
    check_share: float = Field(
        default=_default(Load, "check_share"), ge=0, le=1, description="Share of the answers that is read and compared; all statuses are."
    )
    seed: int = Field(default=_default(Load, "seed"), ge=0, description="Of everything random: the same seed sends the same.")


class ScenarioFace(Face):
    """One load test: what to send where, in which load."""

    name: str = Field(default=_default(Scenario, "name"), description="Title of the report.")
    description: str = Field(default="", description="Words for people.")
    url: str = Field(default="", description="The server. May be left out and given by --url.", examples=["http://127.0.0.1:8000"])
    protocol: Wire | None = Field(default=None, description="What to speak. Left out: as the URL or --protocol says, else rest.")
    driver: Driver = Field(
        default=_default(Scenario, "driver"),
        description="raw: bytes that were made once; triton, triton-aio: tritonclient, which is what clients feel.",
    )
    streaming: bool = Field(default=_default(Scenario, "streaming"), description="ModelStreamInfer instead of single calls (gRPC).")
    requests: list[RequestFace] = Field(min_length=1, description="What is sent, by weight.")
    load: LoadFace = Field(default_factory=LoadFace, description="How much is sent, in which shape, for how long.")
    slo_ms: Seconds | None = Field(default=None, description="Answers within this time are goodput, in ms.")
    repetitions: int = Field(
        default=_default(Scenario, "repetitions"), ge=1, le=1000, description="How often the whole is done; intervals come from two on."
    )
