"""HostPlan: what a replica process is told to hold. Values only; they cross from the control wing to the data wing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from serving.tensor import Signature

Execution = Literal["inline", "thread"]


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How requests become batches.

    max_batch_size      rows in a batch; 0 = the model has no batch dimension, each request runs alone
    max_delay_s         how long the oldest request may wait for company while the model is free; 0 = not at all
    max_queue_requests  bound of the queue; one more is refused
    max_queue_bytes     the same, counted in payload bytes
    timeout_s           longest time in the queue where the request names none; 0 = no bound but its deadline
    execution           inline: in the loop's own thread (models of some 100 µs); thread: in a worker thread
    max_streams         requests of a decoupled model that run at a time, each in a thread of its own; the others wait in the queue
    predict_timeout_s   one call of the model may take so long (decoupled: until its next answer); then its replica is replaced
    isolate             requests of a batch that raised run again, one by one; false where a model must see none twice
    """

    max_batch_size: int = 0
    max_delay_s: float = 0.0
    max_queue_requests: int = 2048
    max_queue_bytes: int = 1 << 30
    timeout_s: float = 0.0
    execution: Execution = "thread"
    isolate: bool = True
    max_streams: int = 16
    predict_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class SequencePolicy:
    """How requests that belong together are kept together.

    max_idle_s      a sequence without a request for so long is forgotten
    max_sequences   live ones of one replica; one more is refused
    """

    max_idle_s: float = 60.0
    max_sequences: int = 1024


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """One ModelVersion to hold.

    runtime     name of a file in models/ ("torch", "python")
    artefact    absolute path
    entry       class in the artefact, where the artefact is code
    weights     absolute path of a state_dict (safetensors), or ""
    options     keyword arguments of the entry class
    signature   as declared; None = taken from the artefact
    threads     threads that one call of the model may use
    memory_mb   memory that the process of a replica may take; 0 = no limit
    warm_up     batch sizes to run before the version counts as ready; () = 1 and the largest
    decoupled   a request has any number of answers; also where the artefact says so by itself
    sequence    the model keeps a state per sequence of requests; None = each request stands alone
    """

    model: str
    version: str
    runtime: str
    artefact: str
    entry: str = ""
    weights: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    signature: Signature | None = None
    batching: BatchPolicy = BatchPolicy()
    threads: int = 1
    memory_mb: int = 0
    warm_up: tuple[int, ...] = ()
    decoupled: bool = False
    sequence: SequencePolicy | None = None

    @property
    def key(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class HostPlan:
    """All versions of one replica process. A change of batching is taken over in place; any other needs a new replica."""

    versions: tuple[VersionPlan, ...]
    revision: int = 0

    def to_json(self) -> dict[str, Any]:
        def version(v: VersionPlan) -> dict[str, Any]:
            return {
                **{
                    k: getattr(v, k)
                    for k in ("model", "version", "runtime", "artefact", "entry", "weights", "options", "threads", "memory_mb", "decoupled")
                },
                "signature": v.signature.to_json() if v.signature else None,
                "batching": asdict(v.batching),
                "warm_up": list(v.warm_up),
                "sequence": asdict(v.sequence) if v.sequence else None,
            }

        return {"versions": [version(v) for v in self.versions], "revision": self.revision}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HostPlan:
        def version(v: dict[str, Any]) -> VersionPlan:
            signature = Signature.from_json(v["signature"]) if v["signature"] else None
            return VersionPlan(
                **{
                    **v,
                    "signature": signature,
                    "batching": BatchPolicy(**v["batching"]),
                    "warm_up": tuple(v["warm_up"]),
                    "sequence": SequencePolicy(**v["sequence"]) if v.get("sequence") else None,
                }
            )

        return cls(tuple(version(v) for v in value["versions"]), value["revision"])
