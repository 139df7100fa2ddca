"""Entries without a connection."""

from __future__ import annotations

from serving.batching.entry import Answer, Entry, Kind
from serving.errors import Code
from serving.inference import Buffer, Layout, TensorLayout
from serving.tensor import DType


class Collector:
    """An owner that keeps what it is given, and fails on a second answer to one entry."""

    def __init__(self) -> None:
        self.answers: dict[int, bytes] = {}
        self.layouts: dict[int, Layout] = {}
        self.rows: dict[int, int] = {}
        self.errors: dict[int, tuple[Code, str]] = {}

    @property
    def done(self) -> int:
        return len(self.answers) + len(self.errors)

    def answer(self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...], queue_us: int, compute_us: int, batch_rows: int) -> None:
        assert entry.key not in self.answers
        assert entry.key not in self.errors
        self.answers[entry.key] = b"".join(parts)
        self.layouts[entry.key] = answer.layout
        self.rows[entry.key] = batch_rows

    def refuse(self, entry: Entry, code: Code, message: str, retry_after_s: float = 0.0) -> None:
        assert entry.key not in self.answers
        assert entry.key not in self.errors
        self.errors[entry.key] = (code, message)


def vector(rows: int = 1, width: int = 4, outputs: tuple[str, ...] = ()) -> Layout:
    return Layout((TensorLayout.fixed("x", DType.FP32, (rows, width)),), outputs, rows=rows)


def entry(
    key: int = 0,
    rows: int = 1,
    width: int = 4,
    *,
    payload: bytes | None = None,
    owner: Collector | None = None,
    deadline: float = 0.0,
    timeout_s: float = 0.0,
    level: int = 0,
) -> Entry:
    kind = Kind(vector(rows, width), True)
    return Entry(kind, bytes(kind.nbytes) if payload is None else payload, owner or Collector(), key, deadline, timeout_s, level)
