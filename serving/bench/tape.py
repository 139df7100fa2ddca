"""Tape: the samples of a process that sends, on their way through a pipe to the process that counts.

The sender appends to lists and writes them out every 10 ms; histograms are the other side's work, so that none of it stands between
two requests. Layout of a record: payload bytes u32 · kind u8 · request u16 · second i32, then the payload: i64 nanoseconds, or a pickle.
"""

from __future__ import annotations

import os
import pickle
from array import array
from collections.abc import Callable, Iterator
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HEAD = Struct("<IBHi")

AFTER = -1
"""The second of what came when the measurement was over."""

TEXT_CHARS = 300


class Kind(IntEnum):
    """What a record holds. The first four hold latencies or lateness in ns."""

    WARM = 0  # began and was answered in the warm-up
    EARLY = 1  # began in the warm-up, was answered later
    GOOD = 2  # began in the measurement
    LATE = 3  # from the intended to the real start
    FAILED = 4
    STATE = 5
    END = 6


class Failures(NamedTuple):
    """`times` failures of one kind; `phase` is WARM, EARLY or GOOD, as for answers."""

    phase: Kind
    kind: str
    text: str
    times: int


class State(NamedTuple):
    """How the sender stands."""

    phase: str
    began_ns: int
    duration_s: float
    in_flight: int


class End(NamedTuple):
    """The last record: sums over the measurement."""

    began_ns: int
    ended_ns: int
    cpu_s: float
    connections: int
    reconnects: int
    received_bytes: int
    waited: int
    interrupted: bool
    warnings: tuple[str, ...]


class TapeWriter:
    """The sender's end. `fd` is made non-blocking: a slow reader costs memory here, never time."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._out = bytearray()
        self._lists: dict[tuple[Kind, int], list[int]] = {}
        self._failed: dict[tuple[int, Kind, str], tuple[int, str]] = {}

    def sink(self, kind: Kind, request: int) -> Callable[[int], None]:
        """Return what takes one value in ns; it costs a list's append."""
        return self._lists.setdefault((kind, request), []).append

    def fail(self, phase: Kind, request: int, kind: str, text: str, times: int = 1) -> None:
        before, first = self._failed.get((request, phase, kind), (0, text))
        self._failed[request, phase, kind] = (before + times, first)

    def flush(self, second: int) -> None:
        """Write what was taken since the last flush, all of it as of this second."""
        for (kind, request), values in self._lists.items():
            if values:
                self._put(kind, request, second, array("q", values).tobytes())
                values.clear()
        for (request, phase, name), (times, text) in self._failed.items():
            self._put(Kind.FAILED, request, second, pickle.dumps(Failures(phase, name, text[:TEXT_CHARS], times)))
        self._failed.clear()
        self._write()

    def state(self, state: State) -> None:
        self._put(Kind.STATE, 0, 0, pickle.dumps(state))
        self._write()

    def end(self, end: End) -> None:
        """Write the last record, and wait until all has left."""
        self._put(Kind.END, 0, 0, pickle.dumps(end))
        os.set_blocking(self._fd, True)
        while self._out:
            self._write()

    def _put(self, kind: Kind, request: int, second: int, payload: bytes) -> None:
        self._out += _HEAD.pack(len(payload), kind, request, second) + payload

    def _write(self) -> None:
        try:
            del self._out[: os.write(self._fd, self._out)]
        except BlockingIOError:
            pass


class Record(NamedTuple):
    kind: Kind
    request: int
    second: int
    payload: bytes

    @property
    def values(self) -> NDArray[np.int64]:
        return np.frombuffer(self.payload, np.int64)


class TapeReader:
    """The counting end: bytes in, whole records out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Record]:
        data = self._rest + data
        at, size = 0, len(data)
        while size - at >= _HEAD.size:
            length, kind, request, second = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size
            if size - begin < length:
                break
            at = begin + length
            yield Record(Kind(kind), request, second, data[begin:at])
        self._rest = data[at:]
