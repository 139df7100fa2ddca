"""MemoryLimit: ends this process when it takes more memory than it may, before the kernel has to choose whom to kill.

Counted is what belongs to the process alone or was there when it was forked (RssAnon): weights, tensors, Python's objects; an empty
replica has some 150 MB of it. Not counted are mapped files and shared memory. A model that keeps the interpreter to itself while it
allocates is seen when it lets go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from serving.cluster import ends

LOOK_S = 0.2
MB = 1 << 20


class MemoryLimit:
    """Looks five times a second, in a thread of its own. told: hears why, and then the process ends."""

    def __init__(self, limit_mb: int, told: Callable[[str], None], used: Callable[[], int] | None = None) -> None:
        self._limit_mb = limit_mb
        self._told = told
        self._used = used or anonymous_bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory limit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            used = self._used()
            if used > self._limit_mb * MB:
                reason = f"it took {used // MB} MB of memory, and resources.memory_mb is {self._limit_mb}"
                ends.end(reason, self._told, ends.MEMORY_CODE)


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process that is in RAM; 0 where the kernel does not tell."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    _, _, rest = status.partition("RssAnon:")
    return int(rest.split(maxsplit=1)[0]) * 1024 if rest else 0
