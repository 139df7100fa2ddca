"""How waiting, running and rows of a version are spread: histograms with a bucket for each power of two.

Counting is `counts[n.bit_length()] += 1`, 50 ns.
"""

from __future__ import annotations

_BITS = 64


class Octaves:
    """counts[k] are numbers in [2^(k-1), 2^k): those with k bits. `total` is the sum of those that were added."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (_BITS + 1)
        self.total = 0

    def add(self, number: int) -> None:
        """Count one number, 0 or more."""
        self.counts[number.bit_length()] += 1
        self.total += number

    def to_json(self, octaves: int, unit: float = 1.0) -> dict[str, object]:
        """Return it as a sample's histogram with the bounds 2^0 .. 2^octaves, each times `unit`; what is larger is above all bounds."""
        counts = self.counts[: octaves + 1]
        return {
            "bounds": [2**k * unit for k in range(octaves + 1)],
            "counts": [*counts, sum(self.counts) - sum(counts)],
            "sum": self.total * unit,
        }


class Spread:
    """How it is spread what one version did; `Counts` has the sums.

    waits_us        waiting of each answered request
    runs_us         time of each batch, joining included
    rows_less_one   rows of each batch less one, so that a bound of 2^k rows holds 2^k too
    """

    __slots__ = ("rows_less_one", "runs_us", "waits_us")

    def __init__(self) -> None:
        self.waits_us = Octaves()
        self.runs_us = Octaves()
        self.rows_less_one = Octaves()

    def ran(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self.rows_less_one.counts[(rows - 1).bit_length()] += 1
        self.runs_us.counts[int(seconds * 1e6).bit_length()] += 1
