from __future__ import annotations

import math

import numpy as np
import pytest

from serving.bench.interval import mean_interval, paired_ratio, share_difference, student, unpaired_ratio, wilson


def test_the_mean_has_students_interval() -> None:
    # Ten values, mean 5.5, standard deviation 3.02765; t for 9 degrees of freedom is 2.262.
    mean, low, high = mean_interval(range(1, 11))
    assert mean == 5.5
    assert (low, high) == pytest.approx((5.5 - 2.16573, 5.5 + 2.16573), abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "t"), [(0.5, 12.706), (1, 12.706), (4.9, 2.776), (30, 2.042), (40, 2.0211), (120, 1.9799), (10**6, 1.96)]
)
def test_student_agrees_with_the_table(freedom: float, t: float) -> None:
    assert student(freedom) == pytest.approx(t, abs=0.001)


def test_wilson_of_a_published_example() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3: 81/263 → 0.2553 to 0.3662.
    share, low, high = wilson(81, 263)
    assert (share, low, high) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0.0, 0.0, 1.0)


def test_a_difference_of_shares_of_a_published_example() -> None:
    # Newcombe 1998, "Interval estimation for the difference between independent proportions", table II, (a), method 10.
    assert share_difference((48, 80), (56, 70)) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


@pytest.mark.parametrize("ratio", [paired_ratio, unpaired_ratio])
def test_before_to_after_is_the_inverse_of_after_to_before(ratio: object) -> None:
    a, b = [10.0, 11.0, 10.5, 9.8, 10.2], [12.0, 12.5, 12.1, 11.7, 12.4]
    middle, low, high = ratio(a, b)
    back, back_low, back_high = ratio(b, a)
    assert (1 / back, 1 / back_high, 1 / back_low) == pytest.approx((middle, low, high), rel=0.02)
    assert low < middle < high


def test_pairs_cancel_what_slows_both_sides_down() -> None:
    drift = np.linspace(1, 3, 8)
    a, b = 100 * drift, 110 * drift * [1.001, 0.999, 1.0, 1.002, 0.998, 1.0, 1.001, 0.999]
    _, low, high = paired_ratio(a, b)
    assert 1.09 < low <= 1.1 <= high < 1.11
    _, low, high = unpaired_ratio(a, b)
    assert low < 1 < high


@pytest.mark.parametrize("count", [3, 5, 8, 15])
def test_intervals_hold_the_true_ratio_about_as_often_as_they_say(count: int) -> None:
    generator = np.random.default_rng(7)
    held = {"pairs": 0, "samples": 0}
    for trial in range(150):
        a = np.exp(generator.normal(0, 0.1, count))
        b = 1.2 * np.exp(generator.normal(0, 0.1, count))
        for name, ratio in (("pairs", paired_ratio), ("samples", unpaired_ratio)):
            _, low, high = ratio(a, b, seed=trial)
            held[name] += low <= 1.2 <= high
    # Standard error of a share of 0.95 over 150 trials is 0.018: five of them below.
    assert min(held.values()) / 150 > 0.95 - 5 * 0.018
    assert math.isfinite(high)


@pytest.mark.parametrize("call", [lambda: mean_interval([1.0]), lambda: paired_ratio([1], [2]), lambda: unpaired_ratio([1, 2], [2])])
def test_one_value_has_no_interval(call: object) -> None:
    with pytest.raises(ValueError, match="an interval needs two"):
        call()
