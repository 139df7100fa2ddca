"""Regions: clients' shared memory, as one gateway has it open.

Never mapped: a client that cuts its file short would kill whoever reads a mapping of it (SIGBUS). `preadv` and `pwrite` on the open file
cost one copy and say how much there was; the size is asked for before each write, which would otherwise make the file longer again.
A file that was put in place of the registered one is another file (device and inode say so) and is not opened.
"""

from __future__ import annotations

import logging
import os
import stat

from serving.errors import InvalidArgument, NotFound, Unavailable, Unsupported
from serving.inference import Buffer
from serving.protocol.special import Region
from serving.wishes import SharedRegion

log = logging.getLogger(__name__)

DISABLED = "Client shared memory is disabled"
FOLDER = "/dev/shm"


class Regions:
    """Those that the controller has told of. `apply` belongs to the loop's thread; reading and writing may run in any."""

    def __init__(self) -> None:
        self.allowed = False
        self._open: dict[str, _Opened] = {}

    def apply(self, allowed: bool, regions: tuple[SharedRegion, ...]) -> None:
        """Open what is new, let go of what is not there any more."""
        self.allowed = allowed
        kept = {name: found for name, found in self._open.items() if found.region in regions}
        self._open = kept | {r.name: _Opened(r) for r in regions if r.name not in kept}

    def read(self, where: Region, into: memoryview) -> None:
        """Fill `into`, `where.nbytes` long. Raises NotFound, InvalidArgument where the bytes are not there (any more)."""
        found = self._find(where)
        at, end = 0, where.nbytes
        while at < end:
            got = os.preadv(found.descriptor, [into[at:]], found.region.offset + where.offset + at)
            if not got:
                raise _beyond(where.name)
            at += got

    def write(self, where: Region, data: Buffer) -> None:
        """Put `data`, at most `where.nbytes` long, into the region. Raises as `read` does."""
        found = self._find(where)
        start = found.region.offset + where.offset
        view = memoryview(data)
        if os.fstat(found.descriptor).st_size < start + len(view):
            raise _beyond(where.name)
        at = 0
        while at < len(view):
            at += os.pwrite(found.descriptor, view[at:], start + at)

    def _find(self, where: Region) -> _Opened:
        if not self.allowed:
            raise Unsupported(DISABLED)
        found = self._open.get(where.name)
        if found is None:
            raise NotFound(f"Unable to find shared memory region: '{where.name}'")
        if where.offset + bool(where.nbytes) > found.region.nbytes:
            raise InvalidArgument(f"Invalid offset for shared memory region: '{where.name}'")
        if where.offset + where.nbytes > found.region.nbytes:
            raise _beyond(where.name)
        if found.descriptor < 0:
            raise Unavailable(f"Unable to open shared memory region: '{found.region.key}'")
        return found

    def close(self) -> None:
        """Let go of all."""
        self._open = {}

    def __repr__(self) -> str:
        return f"Regions({', '.join(self._open) or 'none'}{'' if self.allowed else ', disabled'})"


class _Opened:
    """A file, closed with the last one who uses it: a thread may still be reading when it is unregistered. descriptor -1: not there."""

    __slots__ = ("descriptor", "region")

    def __init__(self, region: SharedRegion) -> None:
        self.region = region
        self.descriptor = -1
        try:
            found = os.open(f"{FOLDER}/{region.key.lstrip('/')}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            log.warning("shared memory region '%s' cannot be opened: %s", region.name, error.strerror)
            return
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (region.device, region.inode):
            log.warning("shared memory region '%s': there is another file in its place", region.name)
            os.close(found)
            return
        self.descriptor = found

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _beyond(name: str) -> InvalidArgument:
    return InvalidArgument(f"Invalid offset + byte size for shared memory region: '{name}'")
