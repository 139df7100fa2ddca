"""Sharing: the two shared memories of one connection, seen from the replica. See `wire/arena.py`."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.errors import DecodeError, Unavailable
from serving.inference import Buffer
from serving.wire.arena import Arena, PeerArena
from serving.wire.frame import OFFSET, SLOT

QUARANTINE_S = 60.0
"""How long slots stay as they are after their connection has gone: the gateway may still be writing them to clients."""


class Sharing:
    """Requests are read from the gateway's memory, answers are written to this process's own.

    arena   None where the connection cannot share (TCP, or the system gave no memory)
    """

    def __init__(self, arena: Arena | None) -> None:
        self.readable = False
        """The gateway's memory is open here: its records may refer to it."""
        self.writable = False
        """Our memory is open there: our records may refer to it."""
        self._arena = arena
        self._peer: PeerArena | None = None
        self._slots: set[int] = set()

    def greet(self, hello: dict[str, Any]) -> None:
        """Take over what the gateway's HELLO says. Raises Unavailable where its memory cannot be opened."""
        if self._arena is None:
            return
        self.writable = hello.get("attached") is True
        announced = hello.get("arena")
        if announced is None or self._peer is not None:
            return
        try:
            self._peer = PeerArena.open(**announced)
        except TypeError:
            raise DecodeError(f"not shared memory: {announced}") from None
        self.readable = True

    def read(self, record: memoryview) -> tuple[memoryview, int]:
        """Return the payload that a record of FLAG_SHM refers to, and the offset that a FREE must name. Raises DecodeError."""
        if self._peer is None or len(record) != SLOT.size:
            raise DecodeError("record in shared memory that is not open here")
        offset, nbytes = SLOT.unpack(record)
        return self._peer.view(offset, nbytes), offset

    def write(self, parts: tuple[Buffer, ...], nbytes: int) -> bytes | None:
        """Copy an answer into a slot and return its record; None where there is no room."""
        arena = self._arena
        assert arena is not None
        slot = arena.allocate(nbytes)
        if slot is None:
            return None
        self._slots.add(slot.offset)
        view = arena.view(slot)
        at = 0
        for part in parts:
            stop = at + len(part)
            view[at:stop] = part
            at = stop
        return SLOT.pack(slot.offset, nbytes)

    def free(self, table: bytes | memoryview) -> None:
        """Take slots back that the gateway has done with. Raises DecodeError for one that this connection does not have."""
        for (offset,) in OFFSET.iter_unpack(table):
            if offset not in self._slots or self._arena is None:
                raise DecodeError(f"FREE of slot {offset}, which is not in use here")
            self._slots.discard(offset)
            self._arena.free(offset)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """The connection has gone."""
        self.readable = self.writable = False
        if self._peer is not None:
            self._peer.close()
        if self._slots:
            loop.call_later(QUARANTINE_S, self._release)

    def _release(self) -> None:
        slots, self._slots = self._slots, set()
        for offset in slots:
            if self._arena is not None:
                self._arena.free(offset)


def create_arena(nbytes: int) -> Arena | None:
    """Return the arena of a replica, None where none is wanted or the system gives none."""
    if nbytes <= 0:
        return None
    try:
        return Arena.create(nbytes)
    except Unavailable:
        return None
