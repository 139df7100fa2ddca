"""Step, Sequence: requests that belong together, in order, because the model keeps a state for them.

A client names its sequence by a number (uint64, not 0) or a text (up to 128 bytes), says START with the first request and END with the
last. Inside the engine an id is a key of bytes, so that the number 7 and the text "7" are two sequences.
"""

from __future__ import annotations

from typing import Any

from serving.errors import DecodeError

MAX_ID_BYTES = 128
"""Of an id that is text, as UTF-8."""
MAX_ID = (1 << 64) - 1

_START, _END = 1, 2
_NUMBER, _TEXT = b"n", b"t"

SequenceId = int | str


def sequence_key(id: SequenceId) -> bytes:
    """Return the key of an id that is in range."""
    return _TEXT + id.encode() if isinstance(id, str) else _NUMBER + id.to_bytes(8, "little")


def sequence_id(key: bytes) -> SequenceId:
    """Return the id of a key. Raises DecodeError for bytes that are none."""
    kind, rest = key[:1], key[1:]
    if kind == _NUMBER and len(rest) == 8:
        return int.from_bytes(rest, "little")
    if kind == _TEXT and 0 < len(rest) <= MAX_ID_BYTES:
        try:
            return rest.decode()
        except UnicodeDecodeError:
            pass
    raise DecodeError(f"{key[:16]!r} is no key of a sequence")


class Step:
    """What a request says about its sequence. `wire` is how it travels in front of a payload: flags u8 · length u8 · key."""

    __slots__ = ("end", "key", "start", "wire")

    def __init__(self, key: bytes, start: bool, end: bool) -> None:
        self.key = key
        self.start = start
        self.end = end
        self.wire = bytes((start * _START | end * _END, len(key))) + key

    @property
    def id(self) -> SequenceId:
        return sequence_id(self.key)

    @classmethod
    def read(cls, payload: memoryview) -> tuple[Step, memoryview]:
        """Return the step in front of a payload, and the payload. Raises DecodeError."""
        if len(payload) < 2 or len(payload) < 2 + payload[1]:
            raise DecodeError("a step of a sequence that is cut off")
        stop = 2 + payload[1]
        key = payload[2:stop].tobytes()
        sequence_id(key)
        return cls(key, bool(payload[0] & _START), bool(payload[0] & _END)), payload[stop:]

    def __repr__(self) -> str:
        return f"Step({self.id!r}{', START' if self.start else ''}{', END' if self.end else ''})"


class Sequence:
    """A live sequence, as a model sees it in `predict(inputs, sequences)`: one for each row of the batch.

    id         a number or a text, as the client named it
    start, end of the request at hand: the first, the last
    state      the model's own: a fresh dict at START, kept until END or until the sequence has been idle for too long
    """

    __slots__ = ("end", "id", "start", "state")

    def __init__(self, id: SequenceId, start: bool = True, end: bool = False) -> None:
        self.id = id
        self.start = start
        self.end = end
        self.state: Any = {}

    def __repr__(self) -> str:
        return f"Sequence({self.id!r}{', start' if self.start else ''}{', end' if self.end else ''}, {self.state!r})"


def no_id(model: str) -> str:
    """Return the error text for a request without an id, as Triton says it."""
    return f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"


def not_started(model: str, id: SequenceId) -> str:
    """Return the error text for a request of a sequence that is not there, as Triton says it."""
    return f"inference request for sequence {id} to model '{model}' must specify the START flag on the first request of the sequence"


def one_row(model: str) -> str:
    """Return the error text for a request of several rows, as Triton says it."""
    return f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher"


def lost(model: str, id: SequenceId) -> str:
    """Return the error text for a sequence whose replica has gone."""
    return f"sequence {id} of model '{model}' was lost with the replica that held it; start it again with the START flag"
