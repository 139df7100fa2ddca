"""Histograms by powers of two: every number is in the bucket that a sample's bounds say."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.batching.octaves import Octaves, Spread


@given(st.lists(st.integers(0, 1 << 40)))
def test_a_number_is_below_the_bound_of_its_bucket_and_not_below_the_one_before(numbers: list[int]) -> None:
    octaves = Octaves()
    for number in numbers:
        octaves.add(number)
    found: dict[str, Any] = octaves.to_json(27)
    assert len(found["counts"]) == len(found["bounds"]) + 1
    expected = [0] * len(found["counts"])
    for number in numbers:
        expected[bisect_right(found["bounds"], number)] += 1
    assert found["counts"] == expected
    assert found["sum"] == sum(numbers)


@given(st.lists(st.integers(1, 9000)))
def test_batches_of_2_to_the_k_rows_are_within_the_bound_2_to_the_k(rows: list[int]) -> None:
    spread = Spread()
    for n in rows:
        spread.ran(n, 0.001)
    found: dict[str, Any] = spread.rows_less_one.to_json(12)
    expected = [0] * len(found["counts"])
    for n in rows:
        expected[bisect_left(found["bounds"], n)] += 1
    assert found["counts"] == expected
    assert sum(spread.runs_us.counts) == len(rows)


def test_bounds_are_told_in_the_unit_asked_for() -> None:
    octaves = Octaves()
    octaves.add(1000)
    assert octaves.to_json(3, 1e-6) == {"bounds": [1e-6, 2e-6, 4e-6, 8e-6], "counts": [0, 0, 0, 0, 1], "sum": 0.001}
