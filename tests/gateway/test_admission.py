from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Unavailable
from serving.gateway.admission import Admission
from serving.state import GatewayLimits


def admission(requests: int, nbytes: int) -> Admission:
    return Admission(GatewayLimits(max_inflight_requests=requests, max_inflight_bytes=nbytes))


def test_requests_beyond_the_bound_are_refused_with_a_time_to_retry() -> None:
    door = admission(2, 1000)
    door.enter(1)
    door.enter(1)
    with pytest.raises(Unavailable) as e:
        door.enter(1)
    assert e.value.retry_after_s == 1.0
    door.leave(1)
    door.enter(1)
    assert door.inflight_requests == 2


def test_bytes_beyond_the_bound_are_refused() -> None:
    door = admission(10, 100)
    door.enter(60)
    with pytest.raises(Unavailable):
        door.enter(41)
    door.enter(40)


def test_a_payload_over_the_bound_passes_alone() -> None:
    door = admission(10, 100)
    door.enter(500)
    with pytest.raises(Unavailable):
        door.enter(1)
    door.leave(500)
    door.enter(1)


def test_new_bounds_keep_what_is_in_flight() -> None:
    door = admission(10, 100)
    door.enter(10)
    door.enter(10)
    door.limit(GatewayLimits(max_inflight_requests=1))
    with pytest.raises(Unavailable):
        door.enter(1)
    assert (door.inflight_requests, door.inflight_bytes) == (2, 20)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60))))
def test_counters_are_the_sum_of_what_was_let_in(steps: list[tuple[bool, int]]) -> None:
    door = admission(5, 100)
    held: list[int] = []
    for enter, n in steps:
        if not enter and held:
            door.leave(held.pop())
        elif enter:
            fits = len(held) < 5 and (sum(held) + n <= 100 or not held)
            if fits:
                door.enter(n)
                held.append(n)
            else:
                with pytest.raises(Unavailable):
                    door.enter(n)
        assert (door.inflight_requests, door.inflight_bytes) == (len(held), sum(held))
