"""Shared memory from the gateway's side: a fake replica's Sharing is this one turned round, so two of them are the whole."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import DecodeError
from serving.gateway.sharing import SharedMemory, Sharing
from serving.wire.arena import SHARE_BYTES, Arena
from serving.wire.frame import OFFSET, SLOT

SIZE = 32 * SHARE_BYTES


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(SIZE)
    assert made is not None
    yield made
    made.arena.close()


class Replica:
    """The other side: its arena, and what it was told to free."""

    def __init__(self) -> None:
        self.arena = Arena.create(SIZE)

    def put(self, payload: bytes) -> memoryview:
        """Write an answer into a slot; returns its record."""
        slot = self.arena.allocate(len(payload))
        assert slot is not None
        self.arena.view(slot)[:] = payload
        return memoryview(SLOT.pack(*slot))


@pytest.fixture
def replica() -> Iterator[Replica]:
    made = Replica()
    yield made
    made.arena.close()


def connect(memory: SharedMemory | None, replica: Replica, woken: list[None] | None = None) -> Sharing:
    sharing = Sharing(memory, lambda: woken.append(None) if woken is not None else None)
    sharing.greet({"arena": replica.arena.announce()})
    sharing.greet({"attached": True})
    return sharing


def test_hellos_offer_our_memory_and_take_theirs(memory: SharedMemory, replica: Replica) -> None:
    sharing = Sharing(memory, lambda: None)
    said = sharing.greet({"arena": replica.arena.announce()})
    assert said == {"arena": memory.arena.announce(), "attached": True}
    assert not sharing.writable
    sharing.greet({"attached": True})
    assert sharing.writable


def test_a_connection_that_cannot_share_says_nothing(replica: Replica) -> None:
    sharing = Sharing(None, lambda: None)
    assert sharing.greet({"arena": replica.arena.announce(), "attached": True}) == {}
    assert not sharing.writable
    with pytest.raises(DecodeError):
        sharing.read(memoryview(SLOT.pack(0, 1)))


def test_memory_that_cannot_be_opened_leaves_the_socket(memory: SharedMemory) -> None:
    sharing = Sharing(memory, lambda: None)
    assert sharing.greet({"arena": {"pid": 1 << 30, "fd": 0, "bytes": 4096}})["attached"] is False
    with pytest.raises(DecodeError):
        sharing.greet({"arena": {"path": "/dev/mem"}})


def test_small_and_huge_bodies_get_no_buffer(memory: SharedMemory) -> None:
    assert memory.buffer(SHARE_BYTES - 1) is None
    assert memory.buffer(SIZE // 4 + 1) is None
    assert memory.buffer(SHARE_BYTES) is not None


def test_a_buffer_is_free_when_its_last_view_has_gone(memory: SharedMemory) -> None:
    body = memory.buffer(SHARE_BYTES)
    assert body is not None
    tensor = body[100:200]
    del body
    assert memory.arena.used_bytes == SHARE_BYTES
    del tensor
    assert memory.arena.used_bytes == 0


def test_a_buffer_that_dies_in_another_thread_is_picked_up_later(memory: SharedMemory) -> None:
    held = [memory.buffer(SHARE_BYTES)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert memory.arena.used_bytes == SHARE_BYTES
    body = memory.buffer(2 * SHARE_BYTES)
    assert memory.arena.used_bytes == 2 * SHARE_BYTES
    del body


def test_a_payload_in_our_memory_is_lent_where_it_lies(memory: SharedMemory, replica: Replica) -> None:
    sharing = connect(memory, replica)
    body = memory.buffer(2 * SHARE_BYTES)
    assert body is not None
    body[37:41] = b"abcd"
    record = sharing.lend((body[37:],), 2 * SHARE_BYTES - 37)
    assert record is not None
    offset, nbytes = SLOT.unpack(record)
    assert bytes(memory.arena._view[offset : offset + 4]) == b"abcd"
    assert nbytes == 2 * SHARE_BYTES - 37
    assert memory.arena.used_bytes == 2 * SHARE_BYTES
    del body
    assert memory.arena.used_bytes == 2 * SHARE_BYTES, "the replica still reads it"
    sharing.take_back(OFFSET.pack(offset))
    assert memory.arena.used_bytes == 0


def test_a_payload_elsewhere_is_copied_once(memory: SharedMemory, replica: Replica) -> None:
    sharing = connect(memory, replica)
    parts = (b"a" * SHARE_BYTES, memoryview(bytearray(b"b" * 10)))
    record = sharing.lend(parts, SHARE_BYTES + 10)
    assert record is not None
    offset, nbytes = SLOT.unpack(record)
    assert bytes(memory.arena._view[offset : offset + nbytes]) == b"".join(parts)
    sharing.take_back(OFFSET.pack(offset))
    assert memory.arena.used_bytes == 0


def test_a_payload_lent_twice_stays_until_it_came_back_twice(memory: SharedMemory, replica: Replica) -> None:
    sharing = connect(memory, replica)
    body = memory.buffer(SHARE_BYTES)
    assert body is not None
    records = {sharing.lend((body,), SHARE_BYTES) for _ in range(2)}
    assert len(records) == 1
    del body
    free = OFFSET.pack(SLOT.unpack(records.pop() or b"")[0])
    sharing.take_back(free)
    assert memory.arena.used_bytes == SHARE_BYTES
    sharing.take_back(free)
    assert memory.arena.used_bytes == 0
    with pytest.raises(DecodeError, match="FREE of slot"):
        sharing.take_back(free)


def test_full_memory_means_the_socket(memory: SharedMemory, replica: Replica) -> None:
    sharing = connect(memory, replica)
    held = [memory.buffer(SIZE // 4) for _ in range(4)]
    assert None not in held
    assert memory.buffer(SHARE_BYTES) is None
    assert sharing.lend((b"a" * SHARE_BYTES,), SHARE_BYTES) is None


def test_an_answer_is_read_in_place_and_given_back_with_its_last_view(memory: SharedMemory, replica: Replica) -> None:
    woken: list[None] = []
    sharing = connect(memory, replica, woken)
    record = replica.put(b"xy" * SHARE_BYTES)
    payload = sharing.read(record)
    assert payload.readonly
    tail = payload[-2:]
    assert bytes(payload) == b"xy" * SHARE_BYTES
    del payload
    assert sharing.frees == []
    assert bytes(tail) == b"xy"
    del tail
    assert sharing.frees == [SLOT.unpack(record)[0]]
    assert len(woken) == 1


def test_an_answer_that_dies_in_another_thread_waits_for_the_next_turn(memory: SharedMemory, replica: Replica) -> None:
    woken: list[None] = []
    sharing = connect(memory, replica, woken)
    held = [sharing.read(replica.put(b"x" * SHARE_BYTES))]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert len(sharing.frees) == 1
    assert woken == []


def test_an_answer_outlives_its_connection(memory: SharedMemory, replica: Replica) -> None:
    sharing = connect(memory, replica)
    payload = sharing.read(replica.put(b"z" * SHARE_BYTES))
    sharing.close()
    assert not sharing.writable
    assert bytes(payload) == b"z" * SHARE_BYTES


@pytest.mark.parametrize("record", [b"", b"1" * 15, SLOT.pack(SIZE, 1), SLOT.pack(1 << 63, 1), SLOT.pack(0, SIZE + 1)])
def test_a_record_that_points_outside_is_garbage(memory: SharedMemory, replica: Replica, record: bytes) -> None:
    with pytest.raises(DecodeError):
        connect(memory, replica).read(memoryview(record))


@pytest.fixture(scope="module")
def only_new_garbage() -> Iterator[None]:
    """Keep the collector from looking at all that the tests before have left: that took a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_garbage")
@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["body", "lend", "free", "drop"]), st.integers(0, 3 * SHARE_BYTES), st.integers(0, 1 << 20)), max_size=40
    )
)
def test_memory_in_use_is_what_someone_holds(steps: list[tuple[str, int, int]]) -> None:
    memory = SharedMemory.create(SIZE)
    assert memory is not None
    replica = Replica()
    sharing = connect(memory, replica)
    bodies: list[memoryview] = []
    lent: list[tuple[int, bytes]] = []
    for action, size, pick in steps:
        if action == "body" and (body := memory.buffer(size)) is not None:
            bodies.append(body)
        elif action == "lend":
            inside = bool(bodies) and pick % 2 == 0
            payload = bodies[pick % len(bodies)] if inside else bytes([pick % 256]) * (SHARE_BYTES + size % 1000)
            if inside:
                payload[:] = bytes([pick % 256]) * len(payload)  # type: ignore[index]
            record = sharing.lend((payload,), len(payload))
            if record is not None:
                offset, nbytes = SLOT.unpack(record)
                assert bytes(memory.arena._view[offset : offset + nbytes]) == bytes(payload)
                lent.append((offset, record))
        elif action == "free" and lent:
            sharing.take_back(OFFSET.pack(lent.pop(pick % len(lent))[0]))
        elif action == "drop" and bodies:
            bodies.pop(pick % len(bodies))
    body = payload = None  # type: ignore[assignment]
    sharing.close()
    bodies.clear()
    gc.collect()
    assert memory.arena.used_bytes == 0
    memory.arena.close()
    replica.arena.close()
