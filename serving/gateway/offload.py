"""Work on a request that takes long enough to be felt by others: it runs in a thread, and the request goes on afterwards."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serving.errors import ServingError, Unavailable
from serving.gateway.ports import Exchange

OFFLOAD_BYTES = 32 * 1024
"""Data from this size on is compressed and decompressed in a thread: 32 KB may be 32 MB, and 25 ms of the loop's time."""

MAX_WAITING = 64
"""Pieces of work that may wait for a thread; one more is refused."""
_threads = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "offload")
"""Few: whoever sends what takes long gets in the way of others like him, not of those whose requests are small."""
_under_way = 0

T = TypeVar("T")


def offload(connection: Exchange, work: Callable[[], T], then: Callable[[T], None]) -> None:
    """Run `work` in a thread, and go on with the connection's request by `then(result)`, unless the client has gone.

    Raises Unavailable where too much waits already.
    """
    global _under_way
    if _under_way >= MAX_WAITING:
        raise Unavailable("too many bodies wait to be compressed or decompressed", retry_after_s=1.0)
    _under_way += 1
    future = asyncio.get_running_loop().run_in_executor(_threads, work)
    connection.work = job = _Job(future)

    def done(_: asyncio.Future[T]) -> None:
        global _under_way
        _under_way -= 1
        if job.dropped:
            if not future.cancelled():
                future.exception()  # looked at, or asyncio complains
            return
        failure = future.exception()
        connection.work = None
        # Not raised again: its traceback would refer to this frame, which refers to it, and what was decompressed would stay with both.
        if isinstance(failure, ServingError):
            connection.fail(failure)
        elif isinstance(failure, Exception):
            connection.bug(failure)
        else:
            go_on(connection, then, future.result())

    future.add_done_callback(done)


def go_on(connection: Exchange, then: Callable[[T], None], result: T) -> None:
    """Go on with the connection's request; what goes wrong is its answer."""
    try:
        then(result)
    except ServingError as error:
        connection.fail(error)
    except Exception as error:
        connection.bug(error)


class _Job:
    """Work in a thread; once it has begun it runs to its end, wanted or not."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.dropped = False
        self._future = future

    def cancel(self) -> None:
        self.dropped = True
        self._future.cancel()
