from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.figures import Window
from serving.bench.recording import Recording
from serving.bench.result import Result
from serving.bench.sweep import Sweep, agree, climb, read, search, settle, steps
from tests.bench.samples import recording, result, runs


def at(load: float) -> Result:
    """Return what a server that takes 1000 a second would show: the latency in ms is the load's."""
    return result([recording({"a": [load]})])


def within(limit_ms: float) -> Callable[[Result], bool]:
    return lambda found: (found.latency_ms.max or 0.0) <= limit_ms


def test_a_climb_ends_with_the_first_load_that_is_too_much() -> None:
    assert [one.latency_ms.max for one in climb([1, 2, 4, 8, 16], at, within(5))] == [1, 2, 4, 8]
    assert len(climb([1, 2, 4], at)) == 3


@given(st.floats(1, 1000), st.floats(1, 1000), st.floats(0.5, 1500))
def test_a_search_finds_the_highest_load_that_holds(a: float, b: float, limit: float) -> None:
    low, high = sorted((a, b))
    found, results = search(low, high, at, lambda one: (one.latency_ms.max or 0.0) <= limit)
    assert len(results) <= 2 + 15
    if found is None:
        assert low > limit - 1e-6
    elif found == high:
        assert high <= limit + 1e-6
    else:
        assert found <= limit + 1e-6 < found * 1.05 + 2e-6


def test_a_search_needs_ends_in_order() -> None:
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        search(5, 1, at, within(1))


@pytest.mark.parametrize(
    ("low", "high", "factor", "expected"),
    [(1, 48, 2, [1, 2, 4, 8, 16, 32, 48]), (1, 4, 1.1, [1, 2, 3, 4]), (3, 3, 2, [3]), (10, 1000, 10, [10, 100, 1000])],
)
def test_steps_grow_by_a_factor_and_end_at_the_last(low: int, high: int, factor: float, expected: list[int]) -> None:
    assert steps(low, high, factor) == expected


def windows(rates: list[int], latencies_ms: list[float]) -> Callable[[], Recording]:
    found = iter(recording({"a": [ms] * rate}, wall_s=1.0) for rate, ms in zip(rates, latencies_ms, strict=True))
    return lambda: next(found)


@pytest.mark.parametrize(
    ("rates", "latencies_ms", "taken", "stable"),
    [
        ([100, 100, 100, 100], [5.0] * 4, 3, True),
        ([50, 90, 100, 105, 100], [5.0] * 5, 4, True),  # 90, 100, 105 lie within 10 % of 98.3
        ([100] * 5, [20.0, 10.0, 5.0, 5.2, 5.1], 5, True),
        ([100] * 6, [1.0, 2.0] * 3, 6, False),
        ([0, 0, 0, 0, 0, 0], [1.0] * 6, 6, False),
    ],
)
def test_windows_are_measured_until_three_in_a_row_agree(rates: list[int], latencies_ms: list[float], taken: int, stable: bool) -> None:
    recordings, stability = settle(windows(rates, latencies_ms), at_most=6 if not stable else 10)
    assert (len(stability.windows), stability.stable) == (taken, stable)
    assert [one.answered for one in recordings] == rates[:taken][-3:]


def test_stopping_ends_the_windows_after_the_one_under_way() -> None:
    recordings, stability = settle(windows([100, 100], [5.0, 5.0]), stopped=lambda: True)
    assert (len(recordings), stability.stable) == (1, False)


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0.01, 1e4)), min_size=3, max_size=6), st.floats(0, 1))
def test_agreement_is_about_the_last_three_only(figures: list[tuple[float, float]], share: float) -> None:
    found = [Window(throughput_rps=rate, latency_ms=ms) for rate, ms in figures]
    exact = all(
        max(abs(value - sum(last) / 3) for value in last) <= share * sum(last) / 3
        for last in ([rate for rate, _ in figures[-3:]], [ms for _, ms in figures[-3:]])
    )
    assert agree(found, share) == exact
    assert not agree(found[:2], share)


def test_the_best_point_is_the_fastest_that_holds() -> None:
    points = [result([recording({"a": [ms] * count})]) for ms, count in ((1, 40), (2, 70), (9, 90))]
    sweep = Sweep(points=points)
    assert sweep.best() is points[2]
    assert sweep.best(within(5)) is points[1]
    assert sweep.best(within(0.5)) is None


def test_files_hold_a_result_or_a_sweep(tmp_path: Path) -> None:
    one, several = runs([100]), Sweep(name="ours", points=[runs([100]), runs([200])])
    (tmp_path / "one.json").write_text(one.text())
    (tmp_path / "several.json").write_text(several.text())
    assert read(tmp_path / "one.json") == one
    assert read(tmp_path / "several.json") == several


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a result"),
        ('{"points": []}', "is not a sweep of version 1: points: List should have"),
        ("{}", "is not a result"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read(tmp_path / "x.json")
