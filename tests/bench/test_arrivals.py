"""Arrivals: rates, spacing and seeds."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.bench.arrivals import Arrivals, Bursty, Constant, Poisson, Ramp, Recorded, Step
from serving.errors import InvalidArgument


def first(arrivals: Arrivals, count: int, seed: int = 1) -> NDArray[np.float64]:
    """Return so many times, in seconds."""
    chunks = list(islice(arrivals.chunks(seed), -(-count // 8192)))
    return np.concatenate(chunks)[:count] / 1e9


def within(arrivals: Arrivals, begin_s: float, end_s: float, seed: int = 1) -> int:
    total = 0
    for chunk in arrivals.chunks(seed):
        total += int(((chunk >= begin_s * 1e9) & (chunk < end_s * 1e9)).sum())
        if chunk[-1] >= end_s * 1e9:
            break
    return total


SHAPES: list[Arrivals] = [
    Constant(1000),
    Poisson(1000),
    Bursty(1000, 0.2),
    Ramp(0, 1000, 5),
    Ramp(1000, 10, 5),
    Ramp(500, 500, 1, "even"),
    Step(((10, 1), (0, 2), (1000, 1))),
    Step(((0, 1), (100, 1)), repeat=True, spacing="even"),
    Recorded((0.0, 0.1, 0.1, 5.0)),
]


@pytest.mark.parametrize("arrivals", SHAPES, ids=repr)
def test_times_ascend_from_zero_and_the_seed_decides_them(arrivals: Arrivals) -> None:
    times = first(arrivals, 20_000)
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(times, first(arrivals, 20_000))


@pytest.mark.parametrize("arrivals", [Poisson(1000), Bursty(1000), Ramp(0, 1000, 5), Step(((10, 1), (20, 1)))], ids=repr)
def test_another_seed_gives_other_times(arrivals: Arrivals) -> None:
    assert not np.array_equal(first(arrivals, 100, seed=1), first(arrivals, 100, seed=2))


def test_constant_is_even() -> None:
    assert first(Constant(4), 5).tolist() == [0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("arrivals", "variation"), [(Poisson(1000), 1.0), (Bursty(1000, 0.25), 2.0), (Bursty(1000, 4), 0.5)], ids=repr)
def test_gaps_have_the_mean_and_the_coefficient_of_variation_of_their_shape(arrivals: Arrivals, variation: float) -> None:
    """A gamma distribution of shape k has the coefficient of variation 1/sqrt(k); an exponential one has 1."""
    gaps = np.diff(first(arrivals, 200_000))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.02)


def test_a_ramp_has_the_integral_of_its_rate() -> None:
    """0 to 1000 a second within 4 s: t²·125 arrivals up to t, then 1000 a second."""
    ramp = Ramp(0, 1000, 4, "even")
    assert [within(ramp, 0, end) for end in (1, 2, 4, 6)] == [125, 500, 2000, 4000]
    assert within(Ramp(0, 1000, 4), 0, 2) == pytest.approx(500, abs=5 * 500**0.5)


def test_a_falling_ramp() -> None:
    ramp = Ramp(1000, 500, 2, "even")
    assert [within(ramp, 0, 1), within(ramp, 1, 2), within(ramp, 2, 3)] == [875, 625, 500]


def test_steps_follow_each_other_and_the_last_one_holds() -> None:
    step = Step(((100, 1), (0, 1), (300, 2)), spacing="even")
    assert [within(step, second, second + 1) for second in range(6)] == [100, 0, 300, 300, 300, 300]


def test_steps_repeat() -> None:
    step = Step(((100, 1), (0, 1)), repeat=True, spacing="even")
    assert [within(step, second, second + 1) for second in range(5)] == [100, 0, 100, 0, 100]
    assert step.mean_rate == 50


def test_a_last_step_of_zero_ends_it() -> None:
    assert [len(chunk) for chunk in Step(((100, 1), (0, 5)), spacing="even").chunks(0)] == [100]


def test_recorded_times_are_played_at_their_speed_and_end() -> None:
    assert [chunk.tolist() for chunk in Recorded((0.0, 1.0, 3.0), speed=2).chunks(0)] == [[0, 500_000_000, 1_500_000_000]]
    long = Recorded(tuple(number / 100 for number in range(20_000)))
    assert np.concatenate(list(long.chunks(0))).tolist() == [number * 10_000_000 for number in range(20_000)]


@given(st.lists(st.tuples(st.one_of(st.just(0.0), st.floats(0.5, 1e4)), st.floats(0.01, 10)), min_size=1, max_size=6), st.booleans())
def test_any_steps_have_the_rate_that_they_say(steps: list[tuple[float, float]], repeat: bool) -> None:
    if not any(rate for rate, _ in steps):
        steps.append((100.0, 1.0))
    step = Step(tuple(steps), repeat, "even")
    begin = expected = 0.0
    for rate, seconds in steps:
        expected += rate * seconds
        begin += seconds
        if expected < 30_000:
            # Even arrivals: what has come is the integral of the rate, rounded up (and one either way where it is a whole number).
            assert abs(within_or_end(step, begin) - expected) <= 1.001


def within_or_end(step: Step, end_s: float) -> int:
    total = 0
    for chunk in step.chunks(0):
        total += int((chunk < end_s * 1e9).sum())
        if chunk.size and chunk[-1] >= end_s * 1e9:
            break
    return total


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Constant(0), "rate 0"),
        (lambda: Poisson(float("inf")), "rate inf"),
        (lambda: Bursty(10, -1), "burstiness -1"),
        (lambda: Ramp(-1, 10, 1), "first -1"),
        (lambda: Step(()), "at least one"),
        (lambda: Step(((0, 1),)), "at least one"),
        (lambda: Step(((1, 0),)), "more than 0 seconds"),
        (lambda: Recorded(()), "at least one time"),
        (lambda: Recorded((2.0, 1.0)), "ascending"),
    ],
)
def test_what_cannot_be_is_refused(make: object, text: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidArgument, match=text):
        make()
