"""Who has which points: exactly as many as the shares say, and as few as may be change hands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.routing import GOLDEN, POINTS, keyed_parts, parts_in_turn, point_of
from tests.routing.routes import shares

VERSIONS = ["1", "2", "3", "10"]


def moved(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return how many points have another version than before."""
    return sum(a != b for a, b in zip(keyed_parts(before), keyed_parts(after), strict=True))


def least(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return how many points have to move, whoever chooses them."""
    return sum(max(0, after.get(v, 0) - before.get(v, 0)) for v in {*before, *after})


@given(shares(VERSIONS))
def test_every_version_has_exactly_its_points(split: dict[str, int]) -> None:
    wanted = {v: points for v, points in split.items() if points}
    assert Counter(parts_in_turn(split)) == wanted
    assert Counter(keyed_parts(split)) == wanted


@given(shares(["3", "12"]), shares(["3", "12"]))
def test_between_two_versions_no_key_moves_that_need_not(before: dict[str, int], after: dict[str, int]) -> None:
    assert moved(before, after) == least(before, after)


@given(shares(["3"]) | shares(["3", "12"]), st.integers(0, POINTS))
def test_a_new_version_takes_from_the_oldest_and_nobody_else_moves(before: dict[str, int], points: int) -> None:
    points = min(points, before["3"])
    after = {**before, "3": before["3"] - points, "20": points}
    changed = [(a, b) for a, b in zip(keyed_parts(before), keyed_parts(after), strict=True) if a != b]
    assert {b for _, b in changed} <= {"20", "12"}
    assert sum(b == "20" for _, b in changed) == points
    if "12" not in before:
        assert len(changed) == points


@given(shares(["1", "2", "3"]), st.integers(0, POINTS))
def test_the_newest_and_the_oldest_trade_with_each_other_and_displace_the_others_by_no_more_than_that(
    before: dict[str, int], points: int
) -> None:
    points = min(points, before["1"])
    after = {"1": before["1"] - points, "2": before["2"], "3": before["3"] + points}
    assert points <= moved(before, after) <= 2 * points


@settings(max_examples=50)
@given(shares(VERSIONS), shares(VERSIONS))
def test_any_edit_moves_few(before: dict[str, int], after: dict[str, int]) -> None:
    """A version's points change by its own edit, and by one for each point that newer ones have taken or given back."""
    bound, newer = 0, 0
    for version in sorted(before, key=int, reverse=True):
        edit = abs(after[version] - before[version])
        bound += edit + newer
        newer += edit + newer
    assert moved(before, after) <= bound


def test_a_canary_that_grows_beside_a_third_version_moves_little_more_than_it_takes() -> None:
    for canary in range(100, 5000, 500):
        before, after = {"1": 8000 - canary, "2": 2000, "3": canary}, {"1": 7500 - canary, "2": 2000, "3": canary + 500}
        assert moved(before, after) <= 1.4 * least(before, after)


def test_points_stay_where_they_were_for_good() -> None:
    """Another order would give every user of a running engine another version: these are part of the contract."""
    parts = keyed_parts({"1": 9500, "2": 500})
    assert [i for i, version in enumerate(parts) if version == "2"][:5] == [14, 40, 49, 64, 82]
    assert [point_of(b"digits\0", key) for key in (b"ann", b"bob", b"")] == [805, 7406, 8510]


@pytest.mark.parametrize("points", [1, 500, 3333])
def test_keys_fall_as_the_shares_say(points: int) -> None:
    parts = keyed_parts({"1": POINTS - points, "2": points})
    n = 40_000
    found = sum(parts[point_of(b"m\0", b"user-%d" % i)] == "2" for i in range(n))
    share = points / POINTS
    assert abs(found - n * share) < 4 * (n * share * (1 - share)) ** 0.5 + 1


def test_models_share_their_callers_out_differently() -> None:
    parts = keyed_parts({"1": 5000, "2": 5000})
    keys = [b"user-%d" % i for i in range(2000)]
    same = sum(parts[point_of(b"a\0", k)] == parts[point_of(b"b\0", k)] for k in keys)
    assert 850 < same < 1150


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 8, 10, 100])
@pytest.mark.parametrize("points", [1, 50, 500, 5000])
def test_requests_in_turn_are_shared_out_evenly_and_so_is_every_second_or_tenth_of_them(stride: int, points: int) -> None:
    parts = parts_in_turn({"1": POINTS - points, "2": points})
    at, found, n = 0.123, 0, 0
    for i in range(20_000 * stride):
        at = (at + GOLDEN) % 1.0
        if i % stride == 0:
            n += 1
            found += parts[int(at * POINTS)] == "2"
            share = points / POINTS
            assert abs(found - n * share) <= 12
