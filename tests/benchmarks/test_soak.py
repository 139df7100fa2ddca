"""Slopes, and what counts as flat."""

from __future__ import annotations

import pytest

from benchmarks.soak import Watched, judged, slope_an_hour

MINUTES = [float(60 * minute) for minute in range(16)]


def test_a_slope_leaves_out_the_first_fifth() -> None:
    filling = [10.0, 50.0, 90.0]
    assert slope_an_hour(MINUTES, filling + [100.0] * 13) == pytest.approx(0.0, abs=1e-6)
    assert slope_an_hour(MINUTES, filling + [100.0 + minute for minute in range(13)]) == pytest.approx(60.0)


def test_too_few_readings_have_no_slope() -> None:
    assert slope_an_hour([0.0, 1.0], [5.0, 500.0]) == 0.0


@pytest.mark.parametrize(
    ("memory_an_hour", "descriptors_an_hour", "flat"),
    [(0.0, 0, True), (-50.0, -10, True), (12.0, 0, True), (200.0, 0, False), (0.0, 60, False)],
)
def test_what_grows_beyond_the_noise_is_not_flat(memory_an_hour: float, descriptors_an_hour: int, flat: bool) -> None:
    watched = Watched(
        "p", MINUTES, [100.0 + memory_an_hour * at / 3600 for at in MINUTES], [20 + int(descriptors_an_hour * at / 3600) for at in MINUTES]
    )
    found = judged(watched, 900.0)
    assert found["flat"] is flat
    assert found["memory_mib_an_hour"] == pytest.approx(memory_an_hour, abs=0.01)
    assert found["memory_grew_mib"] == pytest.approx(memory_an_hour / 4, abs=0.01)
