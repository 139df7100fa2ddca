from __future__ import annotations

import os
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.errors import DecodeError, Unavailable
from serving.wire.arena import MIN_BLOCK, Arena, PeerArena, Slot


def test_what_is_written_here_is_read_there_and_only_read() -> None:
    arena = Arena.create(1 << 20)
    peer = PeerArena.open(**arena.announce())
    slot = arena.allocate(100_000)
    assert slot is not None
    arena.view(slot)[:] = os.urandom(100_000)
    seen = peer.view(*slot)
    assert seen == arena.view(slot)
    with pytest.raises(TypeError, match="read-only"):
        seen[0] = 1
    peer.close()
    assert bytes(seen[:4]) == bytes(arena.view(slot)[:4])  # closed, but this view is still held
    arena.close()


def test_another_process_reads_it_and_what_it_has_survives_ours() -> None:
    arena = Arena.create(1 << 20)
    slot = arena.allocate(5)
    assert slot is not None
    arena.view(slot)[:] = b"hello"
    code = (
        "import sys; from serving.wire.arena import PeerArena\n"
        "p, f, b, o = map(int, sys.argv[1:]); a = PeerArena.open(p, f, b)\n"
        "print('open', flush=True); input(); print(bytes(a.view(o, 5)).decode())"
    )
    at = arena.announce()
    args = [sys.executable, "-c", code, str(at["pid"]), str(at["fd"]), str(at["bytes"]), str(slot.offset)]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        arena.close()
        assert child.communicate("\n")[0] == "hello\n"


@pytest.mark.parametrize("change", [{"fd": 9999}, {"pid": 1 << 22}, {"bytes": 1 << 21}, {"bytes": 0}, {"bytes": "1"}, {"fd": None}])
def test_what_cannot_be_mapped_safely_is_not(change: dict[str, int]) -> None:
    arena = Arena.create(1 << 20)
    with pytest.raises(Unavailable, match="shared memory of process"):
        PeerArena.open(**{**arena.announce(), **change})
    arena.close()


def test_memory_that_could_be_cut_short_is_not_mapped() -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4096)
    with pytest.raises(Unavailable, match="not sealed"):
        PeerArena.open(os.getpid(), fd, 4096)
    os.close(fd)
    arena = Arena.create(1 << 20)
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 4096)
    arena.close()


@pytest.mark.parametrize(("offset", "nbytes"), [(1 << 20, 1), (0, (1 << 20) + 1), (-1, 1), (0, -1), (1 << 63, 1 << 63)])
def test_a_slot_outside_is_refused(offset: int, nbytes: int) -> None:
    arena = Arena.create(1 << 20)
    with pytest.raises(DecodeError, match="is not inside"):
        PeerArena.open(**arena.announce()).view(offset, nbytes)
    arena.close()


def test_a_block_that_was_used_is_used_again_and_small_ones_become_large_ones() -> None:
    arena = Arena.create(8 * MIN_BLOCK)
    first = arena.allocate(MIN_BLOCK)
    assert first is not None
    arena.free(first.offset)
    assert arena.allocate(MIN_BLOCK) == first
    rest = [arena.allocate(MIN_BLOCK) for _ in range(7)]
    assert arena.allocate(1) is None
    for slot in (first, *rest):
        assert slot is not None
        arena.free(slot.offset)
    assert arena.allocate(8 * MIN_BLOCK) == Slot(0, 8 * MIN_BLOCK)
    assert repr(arena) == f"Arena({8 * MIN_BLOCK} of {8 * MIN_BLOCK} bytes used, 1 slots)"
    assert arena.allocate(1 << 40) is None
    arena.close()


class ArenaMachine(RuleBasedStateMachine):
    """Slots never overlap, lie inside, and all memory comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(11 * MIN_BLOCK)
        self.slots: list[Slot] = []

    @rule(nbytes=st.sampled_from([0, 1, MIN_BLOCK, MIN_BLOCK + 1, 3 * MIN_BLOCK, 8 * MIN_BLOCK, 9 * MIN_BLOCK]))
    def allocate(self, nbytes: int) -> None:
        slot = self.arena.allocate(nbytes)
        if slot is None:
            assert self.slots or nbytes > 8 * MIN_BLOCK
        else:
            assert slot.nbytes == nbytes
            self.slots.append(slot)

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.slots))
        self.slots.remove(slot)
        self.arena.free(slot.offset)
        with pytest.raises(DecodeError, match="not in use"):
            self.arena.free(slot.offset)

    @invariant()
    def slots_are_apart_and_inside(self) -> None:
        at = 0
        for slot in sorted(self.slots):
            assert slot.offset >= at
            at = slot.offset + max(slot.nbytes, 1)
        assert at <= self.arena.nbytes

    def teardown(self) -> None:
        for slot in self.slots:
            self.arena.free(slot.offset)
        assert self.arena.used_bytes == 0
        assert self.arena.allocate(8 * MIN_BLOCK) is not None
        self.arena.close()


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=60, deadline=None)
