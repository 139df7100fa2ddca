"""Entry, Kind: a request in a queue, and what it shares with all requests that look alike.

Everything that can be known per layout is in `Kind`, made once per layout and connection; an Entry is a few slots.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from serving.errors import Code
from serving.inference import Buffer, Layout
from serving.tensor import DType, element_count

DEFAULT_PRIORITY = 128
"""Where priority 0 (none given) stands: below the urgent 1..127, above the patient 129..255."""


class Column:
    """One tensor of a layout: where it lies in the payload, and the array that a row of it makes."""

    __slots__ = ("count", "dtype", "is_bytes", "name", "start", "stop", "tail")

    def __init__(self, name: str, dtype: DType, tail: tuple[int, ...], count: int, start: int, stop: int) -> None:
        self.name = name
        self.dtype: np.dtype[Any] = dtype.numpy
        self.tail = tail
        """Shape without the batch dimension (the whole shape where there is none)."""
        self.count = count
        """Elements in this request."""
        self.start = start
        self.stop = stop
        self.is_bytes = dtype is DType.BYTES


class Kind:
    """What requests of one layout have in common.

    bucket   requests whose buckets are equal may share a batch: same names, datatypes, shapes without the batch
             dimension, and parameters, in the same order. Text, because text keeps its hash (a tuple of shapes costs 2 µs each time).
    wants    names of the outputs asked for, () = all. Not part of the bucket: outputs are picked per request.
    """

    __slots__ = ("batched", "bucket", "columns", "layout", "nbytes", "rows", "wants")

    def __init__(self, layout: Layout, batched: bool) -> None:
        self.layout = layout
        self.batched = batched
        self.rows = layout.rows
        self.nbytes = layout.payload_bytes
        self.wants = layout.outputs
        columns = []
        at = 0
        for t in layout.tensors:
            tail = t.shape[1:] if batched else t.shape
            columns.append(Column(t.name, t.dtype, tail, element_count(t.shape), at, at + t.nbytes))
            at += t.nbytes
        self.columns = tuple(columns)
        self.bucket = repr(([(t.name, t.dtype.label, c.tail) for t, c in zip(layout.tensors, columns, strict=True)], layout.parameters))


class Owner(Protocol):
    """Who sent a request and takes its answer; called once per entry, from the loop's thread."""

    def answer(self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...], queue_us: int, compute_us: int, batch_rows: int) -> None: ...

    def refuse(self, entry: Entry, code: Code, message: str, retry_after_s: float = 0.0) -> None: ...


class Answer:
    """The layout of an answer. One object per layout, so that a connection can know it by identity."""

    __slots__ = ("layout", "nbytes")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.nbytes = layout.payload_bytes


class Entry:
    """One request in a queue.

    key        the owner's number for it
    deadline   seconds on the queue's clock; 0.0 = none
    timeout_s  longest time in the queue; 0.0 = as the policy says
    level      priority 1 (first) to 255 (last); 0 = DEFAULT_PRIORITY
    slot       offset of the payload in the owner's shared memory; -1 = the payload came inline

    The queue sets arrived, expires, code (of the error once `expires` is over), order and queued; the batcher sets cancelled.
    """

    __slots__ = (
        "arrived", "cancelled", "code", "deadline", "expires", "key", "kind",
        "level", "order", "owner", "payload", "queued", "slot", "timeout_s",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        payload: Buffer,
        owner: Owner,
        key: int,
        deadline: float = 0.0,
        timeout_s: float = 0.0,
        level: int = 0,
        slot: int = -1,
    ) -> None:
        self.kind = kind
        self.payload = payload
        self.owner = owner
        self.key = key
        self.deadline = deadline
        self.timeout_s = timeout_s
        self.level = level or DEFAULT_PRIORITY
        self.slot = slot
        self.arrived = 0.0
        self.expires = 0.0
        self.code = Code.OK
        self.order = 0
        self.queued = False
        self.cancelled = False
