"""InferRequest, InferResponse, Layout: a prediction on its way, independent of protocol and transport.

A request is split in two: its `Layout` (names, datatypes, shapes, parameters: alike for almost all requests of a client,
decoded and checked once, then shared) and its own few fields (payload, id, deadline). Everything that can be decided
per layout is decided per layout; a request on the hot path is a handful of slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.errors import Code
from serving.sequence import Step
from serving.tensor import DType, element_count

Buffer = bytes | bytearray | memoryview
ParameterValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """One tensor on its way. `nbytes` is its size on the wire (varies per request only for BYTES)."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int

    @classmethod
    def fixed(cls, name: str, dtype: DType, shape: tuple[int, ...]) -> TensorLayout:
        """Return the layout of a tensor of fixed-size elements."""
        return cls(name, dtype, shape, element_count(shape) * dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Layout:
    """The shareable part of a request or an answer.

    tensors     in payload order: the payload is their bytes, one after the other, nothing between
    outputs     names that the request asks for; () = all (requests only)
    parameters  those that go to the model, sorted by key
    rows        size of the batch dimension; 1 where the model has none
    """

    tensors: tuple[TensorLayout, ...]
    outputs: tuple[str, ...] = ()
    parameters: tuple[tuple[str, ParameterValue], ...] = ()
    rows: int = 1
    payload_bytes: int = field(default=-1, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "payload_bytes", sum(t.nbytes for t in self.tensors))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the wire (`Layout.from_json` takes them back)."""
        return {
            "t": [[t.name, t.dtype.label, list(t.shape), t.nbytes] for t in self.tensors],
            "o": list(self.outputs),
            "p": [list(p) for p in self.parameters],
            "r": self.rows,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Layout:
        return cls(
            tuple(TensorLayout(n, DType.of(d), tuple(s), b) for n, d, s, b in value["t"]),
            tuple(value["o"]),
            tuple((k, v) for k, v in value["p"]),
            value["r"],
        )


class InferRequest:
    """One prediction asked for. Mutable slots, not a frozen dataclass: 0.25 against 1.1 µs to make.

    model, version   as asked; version "" = whatever the route says
    layout           see Layout
    payload          buffers that, joined, are the payload of the layout (len 1 is the fast path)
    id               echoed in the answer when not empty
    deadline         absolute, seconds on time.monotonic(); 0.0 = none
    priority         0 = default, 1 = highest
    timeout_us       longest time in a queue; 0 = the model's default
    """

    __slots__ = ("deadline", "id", "layout", "model", "payload", "priority", "timeout_us", "version")

    def __init__(
        self,
        model: str,
        version: str,
        layout: Layout,
        payload: Sequence[Buffer],
        id: str = "",
        deadline: float = 0.0,
        priority: int = 0,
        timeout_us: int = 0,
    ) -> None:
        self.model = model
        self.version = version
        self.layout = layout
        self.payload = payload
        self.id = id
        self.deadline = deadline
        self.priority = priority
        self.timeout_us = timeout_us


class SequenceRequest(InferRequest):
    """A request of a sequence. A class of its own, so that the others need not say that they are none."""

    __slots__ = ("step",)

    def __init__(self, request: InferRequest, step: Step) -> None:
        super().__init__(
            request.model, request.version, request.layout, request.payload, request.id, request.deadline, request.priority,
            request.timeout_us,
        )  # fmt: skip
        self.step = step


class InferResponse:
    """The answer to one request: either tensors (code OK) or an error (code, message).

    payload     one buffer with the tensors of `layout`, in order; valid until `release()` where that is set
    queue_us    time from arrival in the replica to the start of its batch
    compute_us  time in the model
    batch_rows  rows of all requests that ran in the same batch
    """

    __slots__ = ("batch_rows", "code", "compute_us", "layout", "message", "model", "payload", "queue_us", "retry_after_s", "version")

    def __init__(
        self,
        model: str,
        version: str,
        layout: Layout | None,
        payload: Buffer,
        code: Code = Code.OK,
        message: str = "",
        queue_us: int = 0,
        compute_us: int = 0,
        batch_rows: int = 0,
        retry_after_s: float = 0.0,
    ) -> None:
        self.model = model
        self.version = version
        self.layout = layout
        self.payload = payload
        self.code = code
        self.message = message
        self.queue_us = queue_us
        self.compute_us = compute_us
        self.batch_rows = batch_rows
        self.retry_after_s = retry_after_s
