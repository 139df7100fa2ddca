"""Takes turns between two sides, so that what disturbs the machine for a while disturbs both alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")
Side = Literal["A", "B"]


def interleave(
    a: Callable[[], T],
    b: Callable[[], T],
    pairs: int,
    *,
    said: Callable[[Side, int], None] = lambda side, pair: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[list[T], list[T]]:
    """Run both sides `pairs` times, A B B A A B …, and return what each gave, pair by pair.

    Each side goes first as often as the other, so that a drift cancels as well. `said(side, pair)` is called before each run.
    When `stopped()` turns true the run under way ends the series; a pair with one half is left out. ValueError for no pairs.
    """
    if pairs < 1:
        raise ValueError(f"{pairs} pairs, expected at least 1")
    found: dict[Side, list[T]] = {"A": [], "B": []}
    sides: dict[Side, Callable[[], T]] = {"A": a, "B": b}
    orders: tuple[tuple[Side, Side], tuple[Side, Side]] = (("A", "B"), ("B", "A"))
    for pair in range(pairs):
        for side in orders[pair % 2]:
            if stopped():
                break
            said(side, pair)
            found[side].append(sides[side]())
    whole = min(map(len, found.values()))
    return found["A"][:whole], found["B"][:whole]
