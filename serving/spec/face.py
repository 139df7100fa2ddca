"""The face of the YAML: its words, types, bounds and defaults, as pydantic models. The JSON Schema is made from them.

Strict: no unknown key, no "5" for 5. What depends on more than one value is in rules.py. Defaults come from the values that
the engine works with (`BatchPolicy`, `GatewayLimits`, ...), so that each stands in one place.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from serving.hosting import BatchPolicy, Execution, SequencePolicy
from serving.plan import DeploymentTarget, EdgeMode, EngineSettings
from serving.routing import Shadow
from serving.spec.security_face import AccessFace, TlsFace
from serving.spec.strict import Face
from serving.state import GatewayLimits

KIB, MIB = 1 << 10, 1 << 20

Runtime = Literal["torch", "python", "onnx"]
DTypeLabel = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"
]  # fmt: skip


def _default(cls: type, name: str) -> Any:
    return cls.__dataclass_fields__[name].default  # type: ignore[attr-defined]


_limits = GatewayLimits()
_policy = BatchPolicy()
_sequence = SequencePolicy()
_engine = EngineSettings()


def _not_empty(value: Any) -> Any:
    """Refuse a key without a value; to leave the key out is what means the default."""
    if value is None:
        raise PydanticCustomError("nothing", "a value")
    return value


def _version_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise PydanticCustomError("version", "a version such as 1")
    return str(value)


def _header_name(value: str) -> str:
    if not re.fullmatch(HEADER_NAME, value):
        raise PydanticCustomError("header", "a name of a header")
    return value


HEADER_NAME = "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"


def _pattern_text(value: Any) -> Any:
    try:
        re.compile(value if isinstance(value, str) else "")
    except re.error as error:
        raise PydanticCustomError("pattern", "a regular expression", {"problem": str(error)}) from None
    return value


_Given = BeforeValidator(_not_empty)
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Version = Annotated[
    str,
    BeforeValidator(_version_text),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^(0|[1-9][0-9]{0,17})$"}]}),
]


class LimitsFace(Face):
    """Bounds that protect the engine from its clients. 1 KB is 1,024 bytes here and 1 MB 1,024 of those."""

    max_header_kb: int = Field(
        default=_limits.max_header_bytes // KIB, ge=1, le=1024, description="Largest HTTP header of a request, in KB."
    )
    max_body_mb: int = Field(default=_limits.max_body_bytes // MIB, ge=1, le=4096, description="Largest body of a request, in MB.")
    max_json_mb: int = Field(
        default=_limits.max_json_bytes // MIB,
        ge=1,
        le=4096,
        description=(
            "Largest part of a body that is JSON, in MB; binary tensors do not count. Also what a compressed body may become. "
            "Never more than max_body_mb."
        ),
    )
    header_timeout_s: Seconds = Field(default=_limits.header_timeout_s, description="Time in which the header of a request has to come in.")
    body_timeout_s: Seconds = Field(default=_limits.body_timeout_s, description="Longest pause while a body comes in, in seconds.")
    idle_timeout_s: Seconds = Field(default=_limits.idle_timeout_s, description="A connection without a request is closed after this time.")
    max_connections: int = Field(default=_limits.max_connections, ge=1, le=1_000_000, description="Open connections of one gateway.")
    max_inflight_requests: int = Field(
        default=_limits.max_inflight_requests,
        ge=1,
        le=1_000_000,
        description="Requests that one gateway may have under way; one more gets a 503.",
    )
    max_inflight_mb: int = Field(
        default=_limits.max_inflight_bytes // MIB,
        ge=1,
        le=1_048_576,
        description="Bytes of requests that one gateway may have under way, in MB. Never less than max_body_mb.",
    )
    request_timeout_s: Seconds = Field(
        default=_limits.request_timeout_s, description="An answer that takes longer is given up, whatever the client asked for."
    )
    client_requests_per_s: float = Field(
        default=_limits.client_requests_per_s,
        ge=0,
        le=1_000_000,
        description="Predictions that one client may ask of one gateway in a second; one more gets a 429. 0: no limit.",
    )
    client_burst: int = Field(
        default=_limits.client_burst,
        ge=0,
        le=1_000_000,
        description="How many of them may come at once after a pause. 0: those of one second.",
    )
    client_inflight_requests: int = Field(
        default=_limits.client_inflight_requests,
        ge=0,
        le=1_000_000,
        description="Predictions that one client may have under way in one gateway; one more gets a 429. 0: no limit.",
    )
    client_header: str = Field(
        default=_limits.client_header,
        pattern="^$|^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$",
        description="Header, or gRPC metadata, whose value tells clients apart. Left out, and for requests without it: their address.",
        examples=["x-api-key"],
    )
    max_clients: int = Field(
        default=_limits.max_clients,
        ge=1,
        le=10_000_000,
        description="Clients that a gateway keeps in mind; of more, those are forgotten that have not come for longest.",
    )


class InputFace(Face):
    """One input of a model."""

    name: Text = Field(description="Name that clients use.")
    dtype: DTypeLabel = Field(description="Datatype of the Open Inference Protocol, such as FP32.")
    shape: list[Annotated[int, Field(ge=-1)]] = Field(
        description="Sizes of the dimensions; -1 is any size. Without the batch dimension when max_batch_size is 1 or more.",
        examples=[[3, 224, 224], [-1]],
    )
    optional: bool = Field(default=False, description="Whether a request may leave this input out.")
    layout: Literal["", "NHWC", "NCHW"] = Field(
        default="", description="Of an image: the order of height, width and channels, as clients are told. Nothing is converted."
    )


class OutputFace(Face):
    """One output of a model."""

    name: Text = Field(description="Name that clients use.")
    dtype: DTypeLabel = Field(description="Datatype of the Open Inference Protocol, such as FP32.")
    shape: list[Annotated[int, Field(ge=-1)]] = Field(
        description="Sizes of the dimensions; -1 is any size. Without the batch dimension when max_batch_size is 1 or more.",
        examples=[[1000], [-1]],
    )
    labels: list[str] = Field(default_factory=list, description="Names of the classes, for clients that ask for the best k classes.")


class SignatureFace(Face):
    """What the model takes and gives. May be left out where the artefact tells it (.pt2, .onnx)."""

    inputs: list[InputFace] = Field(min_length=1, description="Inputs, in the order in which the model takes them.")
    outputs: list[OutputFace] = Field(min_length=1, description="Outputs, in the order in which the model gives them.")


class BatchingFace(Face):
    """How requests are joined into batches."""

    max_batch_size: int = Field(
        default=_policy.max_batch_size,
        ge=0,
        le=65_536,
        description="Rows in a batch. 0: the model has no batch dimension and each request runs alone.",
    )
    max_delay_ms: float = Field(
        default=_policy.max_delay_s * 1000,
        ge=0,
        le=60_000,
        description="How long a request may wait for company while the model is free. 0: it starts at once.",
    )
    max_queue_requests: int = Field(
        default=_policy.max_queue_requests, ge=1, le=1_000_000, description="Requests that may wait in one replica; one more gets a 503."
    )
    max_queue_mb: int = Field(
        default=_policy.max_queue_bytes // MIB, ge=1, le=1_048_576, description="The same in MB of tensors; 1 MB is 1,024 × 1,024 bytes."
    )
    timeout_ms: float = Field(
        default=_policy.timeout_s * 1000,
        ge=0,
        le=86_400_000,
        description="Longest time in the queue of a request that names none itself. 0: no bound.",
    )
    max_streams: int = Field(
        default=_policy.max_streams,
        ge=1,
        le=4096,
        description="Requests of a decoupled model that run at once in a replica, each in a thread of its own; others wait in the queue.",
    )


class SequenceFace(Face):
    """For a model that keeps a state: requests with the same sequence_id reach the same replica, in order, from START to END."""

    max_idle_s: Seconds = Field(
        default=_sequence.max_idle_s, description="A sequence without a request for so long is forgotten; the client starts it again."
    )
    max_sequences: int = Field(
        default=_sequence.max_sequences,
        ge=1,
        le=1_000_000,
        description="Live sequences of one replica; one more goes to another replica, and gets a 503 where all are full.",
    )


class ResourcesFace(Face):
    """What one replica is given, and on which nodes it may run."""

    cpus: float = Field(
        default=_default(DeploymentTarget, "cpus"), ge=0, le=4096, description="CPU cores that Ray sets aside for a replica."
    )
    gpus: float = Field(
        default=_default(DeploymentTarget, "gpus"),
        ge=0,
        le=64,
        description="GPUs of a replica; below 1 a share of one (0.25), above 1 whole ones.",
    )
    accelerator_type: str = Field(
        default=_default(DeploymentTarget, "accelerator_type"),
        description="Ray's name of the GPU that it has to be.",
        examples=["A100", "H100"],
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that a node must have to run a replica.", examples=[{"zone": "eu-1"}]
    )
    threads: int = Field(default=1, ge=1, le=1024, description="Threads that one call of the model may use.")
    memory_mb: int = Field(
        default=0,
        ge=0,
        le=16_777_216,
        description="Memory that a replica's process may take, in MB; an empty one has some 150. One with more is ended. 0: no limit.",
    )


class WarmUpFace(Face):
    """What a replica runs before it takes traffic."""

    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list, description="Batch sizes to run once. Empty: 1 and the largest.", examples=[[1, 64]]
    )


HeaderName = Annotated[str, AfterValidator(_header_name), WithJsonSchema({"type": "string", "pattern": HEADER_NAME})]
Percent = Annotated[float, Field(ge=0, le=100)]


class StickyFace(Face):
    """What a caller is known by, so that it keeps its version: exactly one of these."""

    header: Annotated[HeaderName | None, _Given] = Field(
        default=None, description="Header, or gRPC metadata, whose value is the key.", examples=["x-user"]
    )
    parameter: Annotated[Text | None, _Given] = Field(default=None, description="Parameter of the request whose value is the key.")
    address: bool = Field(default=False, description="true: the client's address is the key; of IPv6 its network of 64 bits.")


class RuleFace(Face):
    """A condition, and the version for requests that fulfil it: a header or a parameter, which equals or matches something."""

    version: Version = Field(description="The version that answers them.")
    header: Annotated[HeaderName | None, _Given] = Field(
        default=None, description="Header, or gRPC metadata, that is looked at.", examples=["x-tester"]
    )
    parameter: Annotated[Text | None, _Given] = Field(default=None, description="Parameter of the request that is looked at.")
    equals: Annotated[str | None, _Given] = Field(default=None, description="Its value.", examples=["yes"])
    matches: Annotated[Text | None, _Given] = Field(
        default=None,
        description="Regular expression (RE2) that its whole value matches; a value of more than 256 bytes matches none.",
        examples=["(de|at|ch)-.*"],
    )


class ShadowFace(Face):
    """A version that gets copies of requests that others answer. Nobody waits for it; what it answers is counted and dropped."""

    version: Version = Field(description="The version that gets the copies.")
    percent: Percent = Field(description="Share of the requests that are copied, in steps of 0.01.")
    max_inflight_requests: int = Field(
        default=_default(Shadow, "max_inflight_requests"),
        ge=1,
        le=100_000,
        description="Copies that one gateway may have under way; beyond it none is made.",
    )
    max_inflight_mb: int = Field(
        default=_default(Shadow, "max_inflight_bytes") // MIB, ge=1, le=1_048_576, description="The same in MB of tensors."
    )


class TrafficFace(Face):
    """Which version answers those who name none. A version in the path (`/versions/2`) always gets that version."""

    stable: Version = Field(
        description="The version that holds the endpoint: it answers where nothing else is said, and in place of versions that cannot."
    )
    split: dict[str, Percent] = Field(
        default_factory=dict,
        description="Percent of the requests for each version, in steps of 0.01, 100 in all. Left out: the stable version has all.",
        examples=[{"1": 95, "2": 5}],
        json_schema_extra={"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,17})$"}},
    )
    sticky: Annotated[StickyFace | None, _Given] = Field(
        default=None,
        description="What a caller is known by, so that it keeps its version on every gateway; needs a split. Left out: nobody does.",
    )
    rules: list[RuleFace] = Field(
        default_factory=list, description="Conditions that come before the split, in this order: the first one that is fulfilled counts."
    )
    shadow: list[ShadowFace] = Field(default_factory=list, description="Versions that get copies of requests that others answer.")


class SharedFace(Face):
    """What stands at a model as the default of its versions and may be given again at a version."""

    description: str = Field(default="", description="Words for people; shown in the status.")
    signature: Annotated[SignatureFace | None, _Given] = Field(
        default=None, description="What the model takes and gives. May be left out where the artefact tells it (.pt2, .onnx)."
    )
    batching: BatchingFace = Field(default_factory=BatchingFace, description="How requests are joined into batches.")
    decoupled: bool = Field(
        default=False,
        description="true: predict of a Python class returns an iterator of any number of answers. A generator function needs no word.",
    )
    execution: Execution = Field(
        default=_policy.execution,
        description="inline: in the replica's own loop, for models of some 100 µs; thread: beside it, for all others.",
    )
    predict_timeout_s: Seconds = Field(
        default=_policy.predict_timeout_s,
        description=(
            "How long one call of the model may take (decoupled: until its next answer). Then the callers of that batch get an error, and "
            "the replica is replaced. With execution inline it is replaced after 4 s without a sign of life."
        ),
    )
    replicas: int = Field(default=_default(DeploymentTarget, "replicas"), ge=1, le=10_000, description="Processes that hold the model.")
    resources: ResourcesFace = Field(default_factory=ResourcesFace, description="What one replica is given, and on which nodes it may run.")
    warm_up: WarmUpFace = Field(default_factory=WarmUpFace, description="What a replica runs before it takes traffic.")
    sequence: Annotated[SequenceFace | None, _Given] = Field(
        default=None,
        description="For a model that keeps a state per sequence of requests: a class with predict(inputs, sequences).",
        examples=[{"max_idle_s": 60}],
    )


class VersionFace(SharedFace):
    """One immutable artefact of a model. What stands at the model is the default of what may stand here."""

    artefact: Text = Field(
        description="Path of the model's file, relative to this YAML file.", examples=["../artefacts/digits/1/model.pt2"]
    )
    runtime: Annotated[Runtime | None, _Given] = Field(
        default=None,
        description="What runs the artefact. Guessed from its ending (.pt2, .pt, .ts: torch; .onnx: onnx); .py needs it.",
    )
    entry: str = Field(default="", description="Class in the artefact that is the model, where that is a .py file. Left out: Model.")
    weights: str = Field(default="", description="Path of a state_dict in safetensors for that class, relative to this YAML file.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of that class.")


class VersionPolicyFace(Face):
    """Which of the declared versions run; one of the two."""

    latest: Annotated[int | None, _Given, Field(ge=1, le=1000)] = Field(default=None, description="So many with the highest numbers.")
    specific: list[Version] = Field(default_factory=list, description="These.", examples=[[1, 3]])


class ModelFace(SharedFace):
    """A model: a name that clients call, and its versions."""

    versions: dict[str, VersionFace] = Field(
        min_length=1,
        description="The versions, by number.",
        json_schema_extra={"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,17})$"}},
    )
    version_policy: Annotated[VersionPolicyFace | None, _Given] = Field(
        default=None, description="Which of the versions run. Left out: all.", examples=[{"latest": 2}]
    )
    traffic: Annotated[TrafficFace | None, _Given] = Field(
        default=None, description="Which version answers. Needed when there is more than one and no version_policy: then it is the newest."
    )
    at_most_once: bool = Field(
        default=False,
        description=(
            "true: a request that a dying replica had is an error, and so are all of a batch that raised; false: it is sent once more, to "
            "another replica, and the requests of a batch that raised run again one by one."
        ),
    )


class WebhookFace(Face):
    """A receiver of events, which are sent to it signed (standardwebhooks.com)."""

    url: str = Field(pattern=r"^https?://[^\s/?#]+(/[^\s]*)?$", max_length=2000, description="Where events are sent, by POST, as JSON.")
    secret_env: str = Field(
        default="", pattern="^$|^[A-Za-z_][A-Za-z0-9_]*$", description="Variable of the engine's environment that holds the secret."
    )
    secret_file: str = Field(default="", pattern="^$|^/", description="Or a file that holds it; an absolute path.")
    kinds: list[Annotated[str, Field(pattern="^[a-z]+([.][a-z]+)*$")]] = Field(
        default_factory=list,
        description="Kinds of events, or how they begin. Empty: all.",
        examples=[["rollback", "version.failed", "replica"]],
    )
    ca_file: str = Field(
        default="", pattern="^$|^/", description="Certificates that its own has to lead to; an absolute path. Left out: the machine's."
    )


class EngineFace(Face):
    """Models to serve, and the settings of the engine that serves them. One engine may be declared in several files."""

    gateways: int = Field(default=_engine.gateways, ge=1, le=256, description="Processes that speak REST and gRPC.")
    edge: EdgeMode = Field(
        default=_engine.edge,
        description=(
            "auto: clients come straight to the gateways (with TLS: through the edge, HAProxy); grpc: gRPC comes in through the edge, "
            "which spreads the calls of one connection over all gateways; always: REST too; off: never."
        ),
    )
    server_name: Text = Field(default=_engine.server_name, description="Name that the server's metadata shows.")
    base_path: str = Field(
        default=_engine.base_path,
        pattern=r"^$|^(/[A-Za-z0-9._~-]+)+$",
        description="REST is served under this path as well as without it, for proxies that put it in front. Empty: none.",
        examples=["/serving"],
    )
    forward_headers: Annotated[str, BeforeValidator(_pattern_text)] = Field(
        default=_engine.forward_headers,
        description=(
            "Regular expression: headers and gRPC metadata whose whole name it matches become parameters of the request. "
            "authorization and cookie never do."
        ),
        examples=["x-tenant-.*"],
    )
    client_shared_memory: bool = Field(
        default=_engine.client_shared_memory,
        description=(
            "Clients may register shared memory (files in /dev/shm) and have tensors in it. For clients on this machine that may be "
            "trusted: whoever reaches the ports can then read and write every such file of the engine's user."
        ),
    )
    limits: LimitsFace = Field(default_factory=LimitsFace, description="Bounds that protect the engine from its clients.")
    access: AccessFace = Field(default_factory=AccessFace, description="Who may ask and change what: API keys and tokens. Off by default.")
    tls: TlsFace = Field(default_factory=TlsFace, description="Certificates for all ports. Taken when the engine starts.")
    webhooks: list[WebhookFace] = Field(default_factory=list, max_length=16, description="Who is told of events.")
    models: dict[str, ModelFace] = Field(
        default_factory=dict,
        description="The models, by name.",
        json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"}},
    )
