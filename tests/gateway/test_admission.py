from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Unavailable
from serving.gateway.admission import Admission
from serving.gateway.load import NORMAL, PATIENT, URGENT, Loads, new_loads
from serving.state import GatewayLimits


class Door(Admission):
    """Whose requests are of one version where nothing else is said."""

    def __init__(self, requests: int, nbytes: int) -> None:
        super().__init__(GatewayLimits(max_inflight_requests=requests, max_inflight_bytes=nbytes))
        self.loads = new_loads()

    def come(self, nbytes: int = 0, loads: Loads | None = None, rank: int = NORMAL) -> None:
        loads = loads or self.loads
        self.enter(loads, loads[rank], nbytes)

    def go(self, nbytes: int = 0, loads: Loads | None = None, rank: int = NORMAL) -> None:
        self.leave((loads or self.loads)[rank], nbytes)

    def flood(self, loads: Loads | None = None, rank: int = NORMAL, nbytes: int = 0) -> int:
        """Let in as many as come in; return how many."""
        n = 0
        while True:
            try:
                self.come(nbytes, loads, rank)
            except Unavailable:
                return n
            n += 1


def test_requests_beyond_the_bound_are_refused_with_a_time_to_retry() -> None:
    door = Door(2, 1000)
    door.come(1)
    door.come(1)
    with pytest.raises(Unavailable) as e:
        door.come(1)
    assert e.value.retry_after_s == 1.0
    door.go(1)
    door.come(1)
    assert door.inflight_requests == 2


def test_bytes_beyond_the_bound_are_refused() -> None:
    door = Door(10, 100)
    door.come(60)
    with pytest.raises(Unavailable):
        door.come(41)
    door.come(30)


def test_a_payload_over_the_bound_passes_alone() -> None:
    door = Door(10, 100)
    door.come(500)
    with pytest.raises(Unavailable):
        door.come(1)
    door.go(500)
    door.come(1)


def test_new_bounds_keep_what_is_in_flight() -> None:
    door = Door(10, 100)
    door.come(10)
    door.come(10)
    door.limit(GatewayLimits(max_inflight_requests=1))
    with pytest.raises(Unavailable):
        door.come(1)
    assert (door.inflight_requests, door.inflight_bytes) == (2, 20)


@pytest.mark.parametrize(("rank", "share"), [(URGENT, 32 / 33), (NORMAL, 8 / 9), (PATIENT, 2 / 3)])
def test_the_flood_of_one_model_leaves_room_for_others(rank: int, share: float) -> None:
    door = Door(9900, 1 << 30)
    assert door.flood(rank=rank) == pytest.approx(9900 * share, abs=1)
    assert door.flood(new_loads()) > 0


def test_a_flood_of_bytes_leaves_room_for_others() -> None:
    door = Door(1 << 20, 9000)
    assert door.flood(nbytes=10) == pytest.approx(800, abs=2)
    assert door.flood(new_loads(), nbytes=10) > 0


def test_the_urgent_come_in_while_the_ordinary_and_the_patient_are_refused() -> None:
    door = Door(990, 1 << 30)
    patient = door.flood(rank=PATIENT)
    normal = door.flood(rank=NORMAL)
    urgent = door.flood(rank=URGENT)
    assert (patient, normal, urgent) == (660, 220, 80)
    assert door.flood(rank=PATIENT) == door.flood(rank=NORMAL) == 0


def test_two_floods_come_to_equal_shares_whoever_was_first() -> None:
    door = Door(1700, 1 << 30)
    first, second = new_loads(), new_loads()
    assert door.flood(first) > 1500
    for _ in range(3000):  # each answer is followed by whoever comes in
        door.go(loads=first if first[NORMAL].requests >= second[NORMAL].requests else second)
        door.flood(second)
        door.flood(first)
    assert first[NORMAL].requests == pytest.approx(800, abs=20)
    assert second[NORMAL].requests == pytest.approx(800, abs=20)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 1), st.sampled_from([URGENT, NORMAL, PATIENT]))))
def test_counters_are_the_sum_of_what_was_let_in(steps: list[tuple[bool, int, int, int]]) -> None:
    door = Door(5, 100)
    versions = (new_loads(), new_loads())
    held: list[tuple[int, Loads, int]] = []
    for enter, n, which, rank in steps:
        if not enter and held:
            door.go(*held.pop())
        elif enter:
            nbytes = sum(h[0] for h in held)
            try:
                door.come(n, versions[which], rank)
            except Unavailable:
                assert len(held) >= 2 or nbytes + n > 50
            else:
                held.append((n, versions[which], rank))
        assert (door.inflight_requests, door.inflight_bytes) == (len(held), sum(h[0] for h in held))
        assert len(held) <= 5
        assert sum(h[0] for h in held) <= 100
        for loads in versions:
            assert sum(load.requests for load in loads) == sum(h[1] is loads for h in held)
            assert sum(load.nbytes for load in loads) == sum(h[0] for h in held if h[1] is loads)
