"""A process that takes more memory than it may says so and ends; one that stays below it is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading

from serving.cluster.ends import MEMORY_CODE
from serving.cluster.memory import MB, MemoryLimit, anonymous_bytes

PROGRAM = """
import sys, threading
from serving.cluster.memory import MB, MemoryLimit, anonymous_bytes
limit = anonymous_bytes() // MB + 200
MemoryLimit(limit, lambda reason: print(reason, flush=True)).start()
eaten = [b"x" * (50 * MB) for _ in range(int(sys.argv[1]))]
threading.Event().wait(float(sys.argv[2]))
"""


def test_the_process_ends_with_its_reason() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "20", "30"], capture_output=True, text=True, timeout=120)
    assert done.returncode == MEMORY_CODE
    assert "MB of memory, and resources.memory_mb is" in done.stdout


def test_below_the_limit_nothing_happens() -> None:
    looked = threading.Semaphore(0)

    def used() -> int:
        looked.release()
        return 100 * MB

    limit = MemoryLimit(100, lambda reason: None, used)
    limit.start()
    for _ in range(3):
        assert looked.acquire(timeout=60)
    limit.stop()


def test_what_is_counted_grows_with_what_is_held() -> None:
    before = anonymous_bytes()
    held = b"x" * (100 * MB)
    assert anonymous_bytes() - before > 90 * MB
    assert len(held) == 100 * MB
