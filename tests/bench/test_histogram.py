from __future__ import annotations

import base64
import math
import pickle
import zlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.histogram import HIGHEST_NS, Histogram

# Written by hdrhistogram 0.10.8 (the Python port by its author's project) for VALUES, with 3 digits from 1 to one hour in ns.
VALUES = [0, 1, 1000, 1000, 2047, 2048, 123456, HIGHEST_NS]
WRITTEN_BY_HDRHISTOGRAM = "HISTFAAAADF4nJNpmSzMwMAgwAABzFCaEch0M9ixgMH+A0SAiek0P8tqASam/jim5h5mJgC0Pgf/"

# Latencies of all sizes: as many below 1 µs as between 1 s and 1 h.
LATENCIES = st.one_of(
    st.integers(0, 5000), st.builds(lambda power, share: int(2**power * (1 + share)), st.integers(0, 40), st.floats(0, 0.999))
)
LISTS = st.lists(LATENCIES, min_size=1, max_size=200)
PERCENTS = st.one_of(st.sampled_from([0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0]), st.floats(0, 100, allow_subnormal=False))


def by_brute_force(values: list[int], percent: float) -> int:
    rank = math.ceil(Fraction(str(percent)) * len(values) / 100)
    return sorted(values)[max(rank, 1) - 1]


def assert_is_about(found: int, exact: int) -> None:
    assert exact <= found <= exact + exact // 1000


@given(LISTS, PERCENTS)
def test_percentiles_agree_with_brute_force_to_three_digits(values: list[int], percent: float) -> None:
    assert_is_about(Histogram.of(values).percentile(percent), by_brute_force(values, percent))


@given(st.lists(LISTS, min_size=1, max_size=5), PERCENTS)
def test_percentiles_of_a_sum_agree_with_brute_force_over_all_values(parts: list[list[int]], percent: float) -> None:
    together = [value for part in parts for value in part]
    merged = Histogram.merged(map(Histogram.of, parts))
    assert_is_about(merged.percentile(percent), by_brute_force(together, percent))
    assert merged == Histogram.of(together)
    assert (merged.count, merged.sum_ns, merged.min_ns, merged.max_ns) == (len(together), sum(together), min(together), max(together))


@given(LISTS, LISTS)
def test_the_parts_of_a_sum_stay_as_they_are(left: list[int], right: list[int]) -> None:
    a, b = Histogram.of(left), Histogram.of(right)
    assert (a + b).count == len(left) + len(right)
    assert a == Histogram.of(left)
    assert b == Histogram.of(right)


@given(LISTS)
def test_one_at_a_time_is_the_same_as_all_at_once(values: list[int]) -> None:
    single = Histogram()
    for value in values:
        single.record(value)
    bulk = Histogram.of(np.array(values, np.int64))
    assert single == bulk == Histogram.of(values)
    assert (single.sum_ns, single.min_ns, single.max_ns) == (bulk.sum_ns, bulk.min_ns, bulk.max_ns)


@given(LISTS)
def test_text_and_back_keeps_every_bucket(values: list[int]) -> None:
    made = Histogram.of(values)
    read = Histogram.decode(made.encode())
    assert read == made
    assert read.buckets()[:-1] == made.buckets()[:-1]
    assert_is_about(read.max_ns, made.max_ns)
    assert abs(read.mean_ns - made.mean_ns) <= made.mean_ns / 1000 + 0.5


@given(LISTS)
def test_a_pickle_loses_nothing(values: list[int]) -> None:
    made = Histogram.of(values)
    read = pickle.loads(pickle.dumps(made))
    assert read == made
    assert (read.sum_ns, read.min_ns, read.max_ns, read.buckets()) == (made.sum_ns, made.min_ns, made.max_ns, made.buckets())


@given(LISTS, LATENCIES)
def test_at_most_counts_to_the_end_of_the_bucket(values: list[int], limit: int) -> None:
    found = Histogram.of(values).at_most(limit)
    assert sum(value <= limit for value in values) <= found <= sum(value <= limit + limit // 1000 for value in values)


@given(LISTS)
def test_buckets_hold_all_values_in_order(values: list[int]) -> None:
    buckets = Histogram.of(values).buckets()
    assert [end for end, _ in buckets] == sorted({end for end, _ in buckets})
    assert sum(count for _, count in buckets) == len(values)


def test_hdrhistogram_writes_the_same_values_as_we_read() -> None:
    assert Histogram.decode(WRITTEN_BY_HDRHISTOGRAM) == Histogram.of(VALUES)


def test_we_write_what_hdrhistogram_writes_but_for_its_compression() -> None:
    assert _unpacked(Histogram.of(VALUES).encode()) == _unpacked(WRITTEN_BY_HDRHISTOGRAM)


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text)[8:])


def test_empty_histograms_can_be_asked_and_carried() -> None:
    empty = Histogram()
    assert (empty.percentile(99), empty.mean_ns, empty.at_most(5), empty.buckets()) == (0, 0.0, 0, [])
    assert Histogram.decode(empty.encode()) == pickle.loads(pickle.dumps(empty)) == empty
    assert repr(empty) == "Histogram(empty)"
    assert empty + Histogram.of([7]) == Histogram.of([7])


def test_more_than_an_hour_counts_as_an_hour() -> None:
    made = Histogram.of([HIGHEST_NS + 5])
    made.record(2**62)
    assert (made.count, made.max_ns, made.percentile(50)) == (2, HIGHEST_NS, HIGHEST_NS)


def test_a_value_can_be_counted_many_times() -> None:
    made = Histogram()
    made.record(1_000_000, 999)
    made.record(5_000_000)
    assert (made.count, made.percentile(99.9), made.percentile(100)) == (1000, 1_000_447, 5_000_000)
    assert repr(made) == "Histogram(1000 values, p50 1.000 ms, max 5.000 ms)"


@pytest.mark.parametrize("record", [lambda h: h.record(-1), lambda h: h.record_many([3, -1]), lambda h: h.record(1, 0)])
def test_what_cannot_be_a_latency_is_refused(record: object) -> None:
    made = Histogram()
    with pytest.raises(ValueError, match="cannot be recorded"):
        record(made)
    assert made.count == 0


@pytest.mark.parametrize(
    "text",
    [
        "", "no base64!", "AAAA", WRITTEN_BY_HDRHISTOGRAM[:-8],
        "HISTFAAAACd4nJNpmSzMwMDAxAABzFCaEch0M9ixgMH+A0SAhYkBADtBBBo=",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a compressed HdrHistogram V2|another layout"):
        Histogram.decode(text)
