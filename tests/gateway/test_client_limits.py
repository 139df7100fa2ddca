from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import TooManyRequests
from serving.gateway.client_limits import ClientLimits, address_name
from serving.state import GatewayLimits


def limits(rate: float = 0.0, burst: int = 0, inflight: int = 0, most: int = 100) -> ClientLimits:
    return ClientLimits(GatewayLimits(client_requests_per_s=rate, client_burst=burst, client_inflight_requests=inflight, max_clients=most))


def asks(door: ClientLimits, name: bytes, now: float) -> bool:
    try:
        door.ask(name, now)
    except TooManyRequests:
        return False
    return True


def test_nothing_is_limited_by_default() -> None:
    assert not ClientLimits(GatewayLimits()).on
    assert limits(1).on
    assert limits(inflight=1).on


def test_a_burst_comes_in_and_then_the_rate() -> None:
    door = limits(rate=10, burst=5)
    assert [asks(door, b"a", 100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [asks(door, b"a", t) for t in (100.05, 100.1, 100.15, 100.2)] == [False, True, False, True]
    assert asks(door, b"b", 100.0)


def test_without_a_burst_those_of_a_second_may_come_at_once() -> None:
    assert sum(asks(limits_, b"a", 1.0) for limits_ in [limits(rate=20)] for _ in range(50)) == 20
    assert sum(asks(limits_, b"a", 1.0) for limits_ in [limits(rate=0.5)] for _ in range(50)) == 1


def test_a_refusal_says_when_to_come_again() -> None:
    door = limits(rate=2, burst=1)
    door.ask(b"a", 10.0)
    with pytest.raises(TooManyRequests, match="this client may send 2 requests a second") as e:
        door.ask(b"a", 10.1)
    assert e.value.retry_after_s == pytest.approx(0.4)
    assert asks(door, b"a", 10.1 + e.value.retry_after_s)


def test_requests_under_way_are_bounded() -> None:
    door = limits(inflight=2)
    client = door.ask(b"a", 1.0)
    client.enter()
    client.enter()
    with pytest.raises(TooManyRequests, match="this client has 2 requests under way, of at most 2"):
        door.ask(b"a", 1.0)
    client.leave()
    assert door.ask(b"a", 1.0) is client


def test_memory_is_bounded_whatever_clients_call_themselves() -> None:
    door = limits(rate=1, burst=1, most=3)
    for n in range(1000):
        door.ask(b"%d" % n * 5000, 1.0)
    assert len(door) == 3
    assert max(map(len, door._clients)) <= 64


def test_who_has_not_come_for_longest_is_forgotten_first() -> None:
    door = limits(rate=1, burst=1, most=2)
    for name in (b"a", b"b"):
        door.ask(name, 1.0)
    assert not asks(door, b"a", 1.1)
    door.ask(b"c", 1.2)
    assert not asks(door, b"a", 1.3)
    assert asks(door, b"b", 1.4)


def test_changed_limits_keep_what_was_used() -> None:
    door = limits(rate=1, burst=2)
    door.ask(b"a", 1.0)
    door.limit(GatewayLimits(client_requests_per_s=1.0, client_burst=1))
    assert not asks(door, b"a", 1.5)
    assert asks(door, b"a", 2.0)


@given(
    rate=st.sampled_from([0.5, 3.0, 10.0]), burst=st.integers(1, 6), steps=st.lists(st.floats(0, 1).map(lambda s: round(s, 3)), max_size=60)
)
def test_no_span_of_time_has_more_than_the_bucket_and_the_rate_allow(rate: float, burst: int, steps: list[float]) -> None:
    door = limits(rate=rate, burst=burst)
    now = 1000.0
    taken: list[float] = []
    for step in steps:
        now += step
        if asks(door, b"a", now):
            taken.append(now)
        else:
            assert len(taken) >= burst
    for i, start in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= burst + rate * (taken[j] - start) + 1e-3


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.7", b"10.0.0.7"),
        ("::ffff:10.0.0.7", b"10.0.0.7"),
        ("2001:db8:1:2:3::4", b"\x20\x01\x0d\xb8\0\1\0\2"),
        ("2001:db8:1:2:ffff::", b"\x20\x01\x0d\xb8\0\1\0\2"),
        ("fe80::1%eth0", b"\xfe\x80\0\0\0\0\0\0"),
        ("", b""),
        ("no address", b"no address"),
    ],
)
def test_clients_are_named_by_address(address: str, name: bytes) -> None:
    assert address_name(address) == name
