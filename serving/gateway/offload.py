"""Work on a request that takes long enough to be felt by others: it runs in a thread, and the request goes on afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from serving.errors import ServingError
from serving.gateway.ports import Exchange

OFFLOAD_BYTES = 32 * 1024
"""Data from this size on is compressed and decompressed in a thread: 32 KB may be 32 MB, and 25 ms of the loop's time."""

T = TypeVar("T")


def offload(connection: Exchange, work: Callable[[], T], then: Callable[[T], None]) -> None:
    """Run `work` in a thread, and go on with the connection's request by `then(result)`, unless the client has gone."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    connection.work = job = _Job()

    def done(_: asyncio.Future[T]) -> None:
        failure = future.exception()
        if job.dropped:
            return
        connection.work = None
        try:
            if failure is not None:
                raise failure
            then(future.result())
        except ServingError as error:
            connection.fail(error)
        except Exception as error:
            connection.bug(error)

    future.add_done_callback(done)


class _Job:
    """Work in a thread; it runs to its end, wanted or not."""

    dropped = False

    def cancel(self) -> None:
        self.dropped = True
