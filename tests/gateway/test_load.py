from __future__ import annotations

import pytest

from serving.gateway.load import CAP_S, FORGET_S, NO_CAP, NORMAL, PATIENT, RANKS, URGENT, Load


def load(requests: int) -> Load:
    made = Load(NORMAL)
    made.requests = requests
    return made


def test_ranks_follow_the_priorities_of_the_queue() -> None:
    assert [RANKS[p] for p in (0, 1, 127, 128, 129, 255)] == [NORMAL, URGENT, URGENT, NORMAL, PATIENT, PATIENT]
    assert len(RANKS) == 256


@pytest.mark.parametrize(
    ("ahead", "each_s", "waits_s"),
    [
        (10, 0.01, 0.4),
        (21, 0.01, 0.8),
        (21, 0.001, 0.4 + 8 * 11 * 0.001),
        (4, 0.01, 0.4 * 5 / 11),
    ],
    ids=["as many", "more, in proportion", "more, by the reported time", "fewer"],
)
def test_the_forecast_follows_the_number_ahead_and_is_a_batch_late(ahead: int, each_s: float, waits_s: float) -> None:
    made = load(ahead)
    made.waited(ahead=10, took_s=0.5, waited_s=0.4, each_s=each_s, now=100.0)
    assert made.forecast(100.1) == pytest.approx((waits_s + 0.2, waits_s))


def test_who_finds_nobody_ahead_is_let_in() -> None:
    made = load(0)
    made.waited(ahead=10, took_s=0.5, waited_s=0.4, each_s=0.01, now=100.0)
    assert made.forecast(100.1) == (0.0, 0.0)


def test_a_forecast_is_forgotten_after_as_long_as_the_answer_took() -> None:
    made = load(10)
    made.waited(10, took_s=3.0, waited_s=2.9, each_s=0.01, now=100.0)
    assert made.forecast(102.9)[0] == pytest.approx(3.1)
    assert made.forecast(103.1) == (0.0, 0.0)
    made.waited(10, took_s=0.01, waited_s=0.009, each_s=0.001, now=200.0)
    assert made.forecast(200.0 + FORGET_S + 0.01) == (0.0, 0.0)


def test_nothing_is_forecast_before_anything_was_seen() -> None:
    assert load(1000).forecast(5.0) == (0.0, 0.0)


def test_a_full_queue_caps_what_is_under_way_for_a_while() -> None:
    made = load(20)
    assert not made.capped(10.0)
    made.full(10.0)
    assert made.cap == 20
    assert made.capped(10.05)
    made.requests -= 1
    assert not made.capped(10.05)
    made.requests += 5
    assert made.capped(10.05)
    assert not made.capped(10.0 + CAP_S)
    assert made.cap == NO_CAP


def test_a_full_queue_of_others_still_lets_one_try() -> None:
    made = load(0)
    made.full(10.0)
    assert not made.capped(10.01)
