"""Recent: bounded, and what is used stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.protocol.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=200))
def test_it_is_bounded_and_never_wrong(steps: list[tuple[int, int]]) -> None:
    kept: Recent[int, str] = Recent(entries=5, max_bytes=40)
    for key, nbytes in steps:
        found = kept.find(key)
        assert found in (None, str(key))
        if found is None:
            kept.keep(key, str(key), nbytes)
        assert len(kept) <= 10
        assert sum(n for _, n in kept.young.values()) <= 40


def test_what_is_used_survives_a_flood_of_others() -> None:
    kept: Recent[int, str] = Recent(entries=8)
    kept.keep(0, "used")
    for i in range(1, 1000):
        kept.keep(i, "once")
        assert kept.find(0) == "used"
    assert kept.find(1) is None
    assert repr(kept).startswith("Recent(")


def test_a_pair_that_would_fill_it_is_not_kept() -> None:
    kept: Recent[int, str] = Recent(entries=8, max_bytes=100)
    kept.keep(1, "heavy", 26)
    assert kept.find(1) is None
