"""Latencies in buckets of three significant digits, from 1 µs to 1 h; histograms add up, percentiles of a sum are those of all values.

The layout and the text form are HdrHistogram's (Gil Tene; V2, zlib, base64), so its tools read what `encode` writes. The unit is 1 ns,
and up to 2047 ns values are exact. The counts are an array that grows with the largest value: 128 KB for values up to 34 ms; a pickle
carries only the buckets that have values.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

HIGHEST_NS = 3_600_000_000_000  # one hour; what is longer counts as this
DIGITS = 3

_LINEAR_BITS = 11  # 2048 sub-buckets: the smallest power of two that keeps three digits
_HALF = 1 << (_LINEAR_BITS - 1)
_LINEAR_MASK = (1 << _LINEAR_BITS) - 1
_FIRST_SLOTS = 16 * _HALF  # up to 34 ms

_FLOAT_OFFSET = (1023 + _LINEAR_BITS - 2) * _HALF

_COOKIE = 0x1C849313  # V2, word size 1
_COMPRESSED_COOKIE = 0x1C849314
_HEADER = struct.Struct(">iiiiqqd")  # cookie, payload bytes, index offset, digits, lowest, highest, ratio
_FRAME = struct.Struct(">ii")  # cookie, compressed bytes


class Histogram:
    """Counts of values in nanoseconds. Minimum, maximum and sum are kept exactly (`decode` knows them only by their buckets)."""

    __slots__ = ("_counts", "count", "max_ns", "min_ns", "sum_ns")

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_FIRST_SLOTS, np.int64)
        self.count = 0
        self.sum_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    @classmethod
    def of(cls, values_ns: Sequence[int] | NDArray[np.int64]) -> Histogram:
        """Return a histogram of these values."""
        made = cls()
        made.record_many(values_ns)
        return made

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        """Return the sum of all; the given ones stay as they are."""
        total = cls()
        for one in histograms:
            total += one
        return total

    def record(self, value_ns: int, times: int = 1) -> None:
        """Count one value `times` times. ValueError where it is negative."""
        if value_ns < 0 or times < 1:
            raise ValueError(f"a latency of {value_ns} ns counted {times} times cannot be recorded: expected at least 0 ns and 1 time")
        value = min(value_ns, HIGHEST_NS)
        index = _index(value)
        self._grow(index + 1)
        self._counts[index] += times
        self._widen(times, value * times, value, value)

    def record_many(self, values_ns: Sequence[int] | NDArray[np.int64]) -> None:
        """Count many values at once: about 20 ns each from an array, 60 ns each from a list. ValueError where one is negative."""
        values = np.minimum(np.asarray(values_ns, np.int64), HIGHEST_NS)
        if not values.size:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0:
            raise ValueError(f"a latency of {low} ns cannot be recorded: expected at least 0 ns")
        indices = _indices(values)
        found = np.bincount(indices)
        self._grow(found.size)
        self._counts[: found.size] += found
        self._widen(int(values.size), int(values.sum()), low, high)

    def __iadd__(self, other: Histogram) -> Histogram:
        if other.count:
            used = _index(other.max_ns) + 1
            self._grow(used)
            self._counts[:used] += other._counts[:used]
            self._widen(other.count, other.sum_ns, other.min_ns, other.max_ns)
        return self

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram.merged((self, other))

    def __len__(self) -> int:
        return self.count

    def __eq__(self, other: object) -> bool:
        """Equal where all values fall into the same buckets (sums may differ: a decoded histogram has lost them)."""
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.count == other.count and np.array_equal(np.trim_zeros(self._counts, "b"), np.trim_zeros(other._counts, "b"))

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        if not self.count:
            return "Histogram(empty)"
        return f"Histogram({self.count} values, p50 {self.percentile(50) / 1e6:.3f} ms, max {self.max_ns / 1e6:.3f} ms)"

    @property
    def mean_ns(self) -> float:
        """The mean; 0 of an empty histogram."""
        return self.sum_ns / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Return the value in ns that `percent` percent of all values do not exceed; 0 of an empty histogram."""
        return self.percentiles((percent,))[0]

    def percentiles(self, percents: Sequence[float]) -> list[int]:
        """Return the values at these percentiles: the one of rank ceil(percent/100 · count), at the upper end of its bucket.

        At most 0.1 % above the exact value, never below it and never above the maximum.
        """
        if not self.count:
            return [0] * len(percents)
        running = np.cumsum(self._counts)
        ranks = [max(1, math.ceil(Decimal(str(percent)) * self.count / 100)) for percent in percents]
        return [max(self.min_ns, min(_upper(int(index)), self.max_ns)) for index in np.searchsorted(running, ranks)]

    def at_most(self, limit_ns: int) -> int:
        """Return how many values are at most `limit_ns` (those of its own bucket count as at most)."""
        if limit_ns >= self.max_ns:
            return self.count
        return int(self._counts[: _index(limit_ns) + 1].sum()) if limit_ns >= 0 else 0

    def buckets(self) -> list[tuple[int, int]]:
        """Return (upper end in ns, count) of every bucket that has values, ascending."""
        return [(min(_upper(int(index)), self.max_ns), int(self._counts[index])) for index in np.flatnonzero(self._counts)]

    def encode(self) -> str:
        """Return the text that HdrHistogram's tools read (V2, compressed, base64); units are ns."""
        payload = _to_varints(self._counts[: _index(self.max_ns) + 1] if self.count else self._counts[:0])
        plain = _HEADER.pack(_COOKIE, len(payload), 0, DIGITS, 1, HIGHEST_NS, 1.0) + payload
        packed = zlib.compress(plain)
        return base64.b64encode(_FRAME.pack(_COMPRESSED_COOKIE, len(packed)) + packed).decode()

    @classmethod
    def decode(cls, text: str) -> Histogram:
        """Return what `encode` wrote; minimum, maximum and sum come from the buckets. ValueError where it is another layout."""
        try:
            raw = base64.b64decode(text, validate=True)
            cookie, length = _FRAME.unpack_from(raw)
            plain = zlib.decompress(raw[_FRAME.size : _FRAME.size + length]) if cookie == _COMPRESSED_COOKIE else b""
            inner, nbytes, offset, digits, lowest, highest, _ratio = _HEADER.unpack_from(plain)
        except (ValueError, struct.error, zlib.error) as error:
            raise ValueError(f"not a compressed HdrHistogram V2 in base64: {error}") from None
        if (inner, offset, digits, lowest, highest) != (_COOKIE, 0, DIGITS, 1, HIGHEST_NS) or len(plain) != _HEADER.size + nbytes:
            raise ValueError(
                f"a histogram of another layout: {digits} digits from {lowest} to {highest}, expected {DIGITS} from 1 to {HIGHEST_NS}"
            )
        made = cls()
        made._restore(*_from_varints(plain[_HEADER.size :]))
        return made

    def __reduce__(self) -> tuple[object, ...]:
        used = np.flatnonzero(self._counts)
        packed = zlib.compress(used.astype(np.uint16).tobytes() + self._counts[used].tobytes(), 1)
        return _revive, (used.size, packed, self.sum_ns, self.min_ns, self.max_ns)

    def _restore(self, indices: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        if not indices.size:
            return
        first, last = int(indices[0]), int(indices[-1])
        self._grow(last + 1)
        self._counts[indices] = counts
        middles = sum((_lower(index) + _upper(index)) // 2 * count for index, count in zip(indices.tolist(), counts.tolist(), strict=True))
        self._widen(int(counts.sum()), middles, _lower(first), min(_upper(last), HIGHEST_NS))

    def _grow(self, slots: int) -> None:
        missing = slots - self._counts.size
        if missing > 0:
            whole = -(-missing // _HALF) * _HALF
            self._counts = np.concatenate((self._counts, np.zeros(whole, np.int64)))

    def _widen(self, count: int, sum_ns: int, low: int, high: int) -> None:
        self.min_ns = min(self.min_ns, low) if self.count else low
        self.max_ns = max(self.max_ns, high)
        self.count += count
        self.sum_ns += sum_ns


def _revive(used: int, packed: bytes, sum_ns: int, min_ns: int, max_ns: int) -> Histogram:
    plain = zlib.decompress(packed)
    indices = np.frombuffer(plain, np.uint16, used).astype(np.int64)
    made = Histogram()
    made._restore(indices, np.frombuffer(plain, np.int64, used, offset=2 * used))
    made.sum_ns, made.min_ns, made.max_ns = sum_ns, min_ns, max_ns
    return made


def _index(value: int) -> int:
    shift = max(value.bit_length() - _LINEAR_BITS, 0)
    return shift * _HALF + (value >> shift)


def _indices(values: NDArray[np.int64]) -> NDArray[np.int64]:
    # A float64's exponent and the first ten bits of its fraction are the index, but for an offset; exact, since values are below 2**53.
    bits = values.astype(np.float64).view(np.int64)
    return np.where(values < _HALF, values, (bits >> 42) - _FLOAT_OFFSET)


def _lower(index: int) -> int:
    shift = max(index // _HALF - 1, 0)
    return (index - shift * _HALF) << shift


def _upper(index: int) -> int:
    shift = max(index // _HALF - 1, 0)
    return ((index - shift * _HALF + 1) << shift) - 1


def _to_varints(counts: NDArray[np.int64]) -> bytes:
    """Return the counts as zig-zag LEB128; a run of n zeros is the number -n."""
    out = bytearray()
    before = -1
    for index in np.flatnonzero(counts).tolist():
        zeros = index - before - 1
        if zeros:
            _put(out, 2 * zeros - 1 if zeros > 1 else 0)
        _put(out, 2 * int(counts[index]))
        before = index
    return bytes(out)


def _put(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _from_varints(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices and counts of all counts that are not zero."""
    indices: list[int] = []
    counts: list[int] = []
    index = number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte > 0x7F:
            shift += 7
            continue
        if number & 1:
            index += (number + 1) // 2
        else:
            if number:
                indices.append(index)
                counts.append(number // 2)
            index += 1
        number = shift = 0
    if indices and indices[-1] > _index(HIGHEST_NS):
        raise ValueError(f"bucket {indices[-1]} lies above one hour")
    return np.array(indices, np.int64), np.array(counts, np.int64)
