"""SharedMemory, Sharing: large tensors between this gateway and the replicas of its node, without the socket. See `wire/arena.py`.

Slots are given back by the life of the views on them: a `Slab` is the one object that exports the bytes of a slot, every
memoryview of it keeps it alive (in a request, in an answer, in what a transport has not written yet), and when the last
one goes the slot is free. Nobody has to say that he is done, and nobody can forget it.

Views die in the loop's thread. Only the garbage collector may take one in another thread; what it frees is picked up later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, cast

import numpy as np

from serving.errors import DecodeError, Unavailable
from serving.inference import Buffer
from serving.wire.arena import SHARE_BYTES, Arena, PeerArena
from serving.wire.frame import OFFSET, SLOT

MAX_SHARE = 4
"""One payload takes at most this part of the memory: larger ones go through the socket."""


class Slab(np.ndarray[Any, np.dtype[np.uint8]]):
    """The bytes of one slot. An ndarray because Python 3.11 lets no other class of its own export a buffer."""

    home: Callable[[int], None] | None = None
    offset = 0
    source: memoryview
    """Kept, because numpy keeps only the mmap below it, which could then be closed under us."""

    @classmethod
    def over(cls, view: memoryview, offset: int, home: Callable[[int], None]) -> Slab:
        """Return a slab over `view`; `home(offset)` is called when the last view of it has gone."""
        slab = cls((len(view),), np.uint8, cast(Any, view))
        slab.source = view
        slab.offset = offset
        slab.home = home
        return slab

    def bytes(self) -> memoryview:
        """Return a view of all of it, which keeps it."""
        return memoryview(cast(Any, self))

    def __del__(self) -> None:
        if self.home is not None:
            self.home(self.offset)


class SharedMemory:
    """This gateway's own arena. Made in the loop's thread."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._thread = get_ident()
        self._late: list[int] = []

    @classmethod
    def create(cls, nbytes: int) -> SharedMemory | None:
        """Return memory of that size; None where none is wanted or the system gives none."""
        try:
            return cls(Arena.create(nbytes)) if nbytes > 0 else None
        except Unavailable:
            return None

    def buffer(self, nbytes: int) -> memoryview | None:
        """Return bytes to be written, None where they are too few, too many, or there is no room."""
        if nbytes < SHARE_BYTES or nbytes > self.arena.nbytes // MAX_SHARE:
            return None
        while self._late:
            self.arena.free(self._late.pop())
        slot = self.arena.allocate(nbytes)
        return None if slot is None else Slab.over(self.arena.view(slot), slot.offset, self._free).bytes()

    def locate(self, part: Buffer) -> int:
        """Return where the bytes lie in the arena; -1 when they do not."""
        slab: Any = part.obj if type(part) is memoryview else None
        if type(slab) is not Slab or slab.home != self._free:
            return -1
        return slab.offset + _address(part) - _address(slab)

    def _free(self, offset: int) -> None:
        if get_ident() == self._thread:
            self.arena.free(offset)
        else:
            self._late.append(offset)

    def __repr__(self) -> str:
        return f"SharedMemory({self.arena!r})"


class Sharing:
    """Both memories, as one connection uses them.

    own     ours; None where the connection cannot share (TCP, no memory)
    wake    called when `frees` has something to send
    frees   offsets in the replica's memory that nobody here looks at any more
    """

    def __init__(self, own: SharedMemory | None, wake: Callable[[], None]) -> None:
        self.writable = False
        """Our memory is open there: records may refer to it."""
        self.frees: list[int] = []
        self._own = own
        self._wake = wake
        self._thread = get_ident()
        self._peer: PeerArena | None = None
        self._lent: dict[int, list[Buffer]] = {}
        """By offset: what the replica may be reading. A list, for two requests may share a payload."""

    def greet(self, hello: dict[str, Any]) -> dict[str, Any]:
        """Take over what the replica's HELLO says; returns what ours has to say. Raises DecodeError."""
        if self._own is None:
            return {}
        self.writable = hello.get("attached") is True
        announced = hello.get("arena")
        if announced is not None and self._peer is None:
            try:
                self._peer = PeerArena.open(**announced)
            except TypeError:
                raise DecodeError(f"not shared memory: {announced}") from None
            except Unavailable:
                pass  # its answers come through the socket
        return {"arena": self._own.arena.announce(), "attached": self._peer is not None}

    def lend(self, payload: Sequence[Buffer], nbytes: int) -> bytes | None:
        """Return the record for a payload, which is copied unless it lies in our memory already; None where there is no room."""
        own = self._own
        assert own is not None
        held: Buffer = payload[0]
        offset = own.locate(held) if len(payload) == 1 else -1
        if offset < 0:
            buffer = own.buffer(nbytes)
            if buffer is None:
                return None
            at = 0
            for part in payload:
                stop = at + memoryview(part).nbytes
                buffer[at:stop] = memoryview(part).cast("B")
                at = stop
            held = buffer
            offset = own.locate(buffer)
        self._lent.setdefault(offset, []).append(held)
        return SLOT.pack(offset, nbytes)

    def take_back(self, table: bytes | memoryview) -> None:
        """Take over a FREE frame. Raises DecodeError for what was not lent."""
        for (offset,) in OFFSET.iter_unpack(table):
            held = self._lent.get(offset)
            if held is None:
                raise DecodeError(f"FREE of slot {offset}, which is not in use here")
            held.pop()
            if not held:
                del self._lent[offset]

    def read(self, record: memoryview) -> memoryview:
        """Return the answer that a record of FLAG_SHM refers to. Raises DecodeError."""
        if self._peer is None or len(record) != SLOT.size:
            raise DecodeError("record in shared memory that is not open here")
        offset, nbytes = SLOT.unpack(record)
        return Slab.over(self._peer.view(offset, nbytes), offset, self._forget).bytes()

    def _forget(self, offset: int) -> None:
        self.frees.append(offset)
        if get_ident() == self._thread:
            self._wake()

    def close(self) -> None:
        """The connection has gone: nothing is lent any more. Answers that are still being written stay valid."""
        self.writable = False
        self._lent.clear()
        if self._peer is not None:
            self._peer.close()

    def __repr__(self) -> str:
        state = f"{len(self._lent)} slots lent" if self.writable else "not shared"
        return f"Sharing({state}, {self._own!r}, {self._peer!r})"


def _address(buffer: Buffer | Slab) -> int:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address
