"""Slots and listeners are shared out evenly whatever comes and goes, and what is told adds up to what is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.edge.shares import Move, Shares


def test_the_first_gateway_accepts_on_every_listener() -> None:
    shares = Shares(3)
    assert shares.claim("a") == 0
    assert shares.settle() == [Move(0, None, "a"), Move(1, None, "a"), Move(2, None, "a")]


def test_a_second_gateway_takes_half() -> None:
    shares = Shares(4)
    shares.claim("a")
    shares.settle()
    assert shares.claim("b") == 1
    moves = shares.settle()
    assert Move(1, "a", "b") in moves
    assert len(moves) == 2
    assert sorted(shares.acceptors, key=str) == ["a", "a", "b", "b"]


def test_the_listeners_of_a_gateway_that_left_go_to_the_others() -> None:
    shares = Shares(4)
    for name in "ab":
        shares.claim(name)
    shares.settle()
    assert shares.leave("a") == 0
    assert [move.new for move in shares.settle()] == ["b", "b"]
    assert shares.claim("c") == 0
    assert Move(0, "b", "c") in shares.settle()


def test_a_draining_gateway_keeps_its_slot_and_no_listener() -> None:
    shares = Shares(2)
    shares.claim("a")
    shares.claim("b")
    shares.settle()
    shares.drain("a")
    assert shares.settle() == [Move(0, "a", "b")]
    assert shares.holders == ["a", "b"]


def test_while_nobody_takes_traffic_nothing_moves() -> None:
    shares = Shares(2)
    shares.claim("a")
    shares.settle()
    shares.drain("a")
    assert shares.settle() == []


def test_no_slot_is_given_that_is_closed_or_held() -> None:
    shares = Shares(3)
    assert shares.claim("a", [0]) == 1
    assert shares.claim("b", [0]) == 2
    assert shares.claim("c", [0]) is None


@pytest.mark.parametrize(
    ("slot", "listeners", "losers"),
    [(1, [1, 2], [(1, "a"), (2, "b")]), (1, [1], [(1, "a")]), (0, [0], None), (9, [], None)],
    ids=["home wins, the rest stays", "home only", "slot held", "no such slot"],
)
def test_reclaiming_names_who_lets_go(slot: int, listeners: list[int], losers: list[tuple[int, str]] | None) -> None:
    shares = Shares(3)
    shares.claim("a")
    shares.settle()
    if losers:
        losers = [(n, m) for n, m in losers]
    assert shares.reclaim("b", slot, listeners) == losers


class Life(RuleBasedStateMachine):
    """A model of all that can happen: what gateways were told to accept on must be what the shares say."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(6)
        self.told: dict[str, set[int]] = {}
        self.draining: set[str] = set()
        self.count = 0

    def settle(self) -> None:
        for number, old, new in self.shares.settle():
            self.told[new].add(number)
            if old in self.told:
                self.told[old].discard(number)

    @rule()
    def arrive(self) -> None:
        self.count += 1
        name = f"g{self.count}"
        slot = self.shares.claim(name)
        assert (slot is None) == (len(self.told) == 6)
        if slot is not None:
            self.told[name] = set()
        self.settle()

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.told)))
        assert self.shares.leave(name) is not None
        del self.told[name]
        self.draining.discard(name)
        self.settle()

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.told)))
        self.shares.drain(name)
        self.draining.add(name)
        self.settle()

    @rule()
    def replace_the_keeper(self) -> None:
        fresh = Shares(6)
        for name, numbers in self.told.items():
            slot = self.shares.slot_of(name)
            assert slot is not None
            losers = fresh.reclaim(name, slot, sorted(numbers))
            assert losers == []
            if name in self.draining:
                fresh.drain(name)
        self.shares = fresh
        self.settle()

    @invariant()
    def live_gateways_share_evenly(self) -> None:
        live = [name for name in self.told if name not in self.draining]
        if live:
            assert sorted(n for name in live for n in self.told[name]) == list(range(6))
            counts = [len(self.told[name]) for name in live]
            assert max(counts) - min(counts) <= 1
            assert all(self.shares.slot_of(name) in self.told[name] for name in live)

    @invariant()
    def each_listener_has_one_acceptor_that_was_told(self) -> None:
        for number, acceptor in enumerate(self.shares.acceptors):
            assert acceptor is None or number in self.told[acceptor]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.integers(1, 12), st.integers(0, 12))
def test_a_newcomer_moves_as_few_as_possible(slots: int, present: int) -> None:
    shares = Shares(slots)
    for number in range(min(present, slots)):
        shares.claim(f"g{number}")
        shares.settle()
    before = shares.acceptors
    if shares.claim("new") is None:
        assert present >= slots
        return
    moves = shares.settle()
    if present:
        assert all(move.new == "new" or move.old is None for move in moves) or len(moves) <= 2 * slots // (present + 1) + 2
        assert sum(a != b for a, b in zip(before, shares.acceptors, strict=True)) == len(moves)
