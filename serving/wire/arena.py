"""Arena, PeerArena: memory that two processes of one node share, so that large tensors do not go through a socket.

Each side of a connection may have an arena of its own: it alone allocates and writes there, the peer reads. A payload of
SHARE_BYTES or more is written into a slot, and its record carries offset and length (frame.SLOT, FLAG_SHM); the reader gives
the slot back with a FREE frame. An arena that is full, or a peer that cannot open it, costs speed and nothing else: payloads go inline.

The memory is an anonymous file (memfd) that the peer opens through /proc/<pid>/fd/<fd>: nothing to clean up after a kill -9.
It is sealed against changes of size, and the peer checks that, so a reader cannot die of a file that was cut short under it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import NamedTuple

from serving.errors import DecodeError, Unavailable

SHARE_BYTES = 32 * 1024
"""Payloads from this size on are worth a slot: below it the copy through the socket costs less than the slot's bookkeeping."""
MIN_BLOCK = 32 * 1024
_MIN_ORDER = MIN_BLOCK.bit_length() - 1
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Slot(NamedTuple):
    """A piece of an arena that is in use. `nbytes` as asked for; the block behind it is a power of two."""

    offset: int
    nbytes: int


class Arena:
    """This process's own shared memory: blocks of 2^n bytes, found by size in lists of free ones.

    Blocks are not merged when they are freed but when an allocation fails: the next request of the same size finds the same
    block, with its pages mapped and warm in the cache. Not for several threads.
    """

    def __init__(self, fd: int, nbytes: int) -> None:
        self.fd = fd
        self.nbytes = nbytes
        self.used_bytes = 0
        self._map = mmap.mmap(fd, nbytes)
        self._view = memoryview(self._map)
        self._orders: dict[int, int] = {}
        """Order of each block in use, by offset."""
        self._free: list[dict[int, None]] = [{} for _ in range(nbytes.bit_length())]
        at = 0
        while at < nbytes:
            order = (nbytes - at).bit_length() - 1
            self._free[order][at] = None
            at += 1 << order

    @classmethod
    def create(cls, nbytes: int) -> Arena:
        """Return an arena of `nbytes`, rounded up to whole blocks; pages cost memory once they are written.

        Raises Unavailable where the system gives none.
        """
        size = max(MIN_BLOCK, -(-nbytes // MIN_BLOCK) * MIN_BLOCK)
        try:
            fd = os.memfd_create("serving-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, size)
        except OSError as error:
            raise Unavailable(f"no shared memory of {size} bytes: {error.strerror}") from None

    def announce(self) -> dict[str, int]:
        """Return what HELLO says of it; `PeerArena.open(**announced)` takes it."""
        return {"pid": os.getpid(), "fd": self.fd, "bytes": self.nbytes}

    def allocate(self, nbytes: int) -> Slot | None:
        """Return a slot of `nbytes`, None where there is no room."""
        order = max(_MIN_ORDER, (nbytes - 1).bit_length()) if nbytes > 1 else _MIN_ORDER
        free = self._free
        if order >= len(free):
            return None
        blocks = free[order]
        if blocks:
            offset, _ = blocks.popitem()
        else:
            found = self._split(order)
            if found < 0:
                self._merge()
                found = self._split(order)
                if found < 0:
                    return None
            offset = found
        self._orders[offset] = order
        self.used_bytes += 1 << order
        return Slot(offset, nbytes)

    def view(self, slot: Slot) -> memoryview:
        """Return the slot's bytes, to be written."""
        return self._view[slot.offset : slot.offset + slot.nbytes]

    def free(self, offset: int) -> None:
        """Take the slot back. Raises DecodeError for an offset that is not in use: the peer says FREE for what it does not have."""
        order = self._orders.pop(offset, None)
        if order is None:
            raise DecodeError(f"slot at {offset} is not in use")
        self._free[order][offset] = None
        self.used_bytes -= 1 << order

    def close(self) -> None:
        """Give up the descriptor; the memory goes when the last view and the last peer have let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            _release(self._view, self._map)

    def _split(self, order: int) -> int:
        """Take the smallest free block of at least `order`, put the halves that are not needed back. -1: there is none."""
        free = self._free
        for larger in range(order, len(free)):
            if free[larger]:
                offset, _ = free[larger].popitem()
                while larger > order:
                    larger -= 1
                    free[larger][offset + (1 << larger)] = None
                return offset
        return -1

    def _merge(self) -> None:
        """Join all free neighbours that are halves of one block."""
        for order in range(_MIN_ORDER, len(self._free) - 1):
            blocks = self._free[order]
            for offset in sorted(blocks):
                other = offset ^ (1 << order)
                if offset in blocks and other in blocks:
                    del blocks[offset], blocks[other]
                    self._free[order + 1][min(offset, other)] = None

    def __repr__(self) -> str:
        return f"Arena({self.used_bytes} of {self.nbytes} bytes used, {len(self._orders)} slots)"


class PeerArena:
    """The peer's shared memory, for reading."""

    def __init__(self, mapped: mmap.mmap, nbytes: int) -> None:
        self.nbytes = nbytes
        self._map = mapped
        self._view = memoryview(mapped)

    @classmethod
    def open(cls, pid: int, fd: int, bytes: int) -> PeerArena:
        """Map what the peer announced. Raises Unavailable where that cannot be done safely; payloads then go inline."""
        try:
            mine = os.open(f"/proc/{int(pid)}/fd/{int(fd)}", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError, TypeError) as error:
            raise Unavailable(f"cannot open the shared memory of process {pid}: {error}") from None
        try:
            sealed = fcntl.fcntl(mine, fcntl.F_GET_SEALS)
            if sealed & _SEALS != _SEALS or os.fstat(mine).st_size != bytes or bytes <= 0:
                raise Unavailable(f"the shared memory of process {pid} is not sealed, or not of {bytes} bytes")
            return cls(mmap.mmap(mine, bytes, access=mmap.ACCESS_READ), bytes)
        except (OSError, ValueError, TypeError) as error:
            raise Unavailable(f"cannot map the shared memory of process {pid}: {error}") from None
        finally:
            os.close(mine)

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes that the peer has written. Raises DecodeError where they are not inside."""
        if offset + nbytes > self.nbytes or offset < 0 or nbytes < 0:
            raise DecodeError(f"slot of {nbytes} bytes at {offset} is not inside {self.nbytes} bytes of shared memory")
        return self._view[offset : offset + nbytes]

    def close(self) -> None:
        """Let go; views that are still in use stay valid."""
        _release(self._view, self._map)

    def __repr__(self) -> str:
        return f"PeerArena({self.nbytes} bytes)"


def _release(view: memoryview, mapped: mmap.mmap) -> None:
    try:
        view.release()
        mapped.close()
    except BufferError:
        pass  # someone still reads: the mapping goes with the last view
