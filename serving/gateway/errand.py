"""errand: a request whose answer has to be waited for elsewhere (the controller). A task of its own, for rare calls only.

    rest_errand(run)               run(body) -> the JSON of the answer
    grpc_errand(out, read, run)    run(message) -> the answer's message

A client that goes away loses the answer; what was asked for is done all the same. The name of who asks goes with the task, to the
desk (`desk.asker`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from serving.errors import ServingError
from serving.gateway.client_limits import identity_of
from serving.gateway.desk import asker
from serving.gateway.grpc_out import GrpcExchange, GrpcOut
from serving.gateway.head import Action, Head
from serving.gateway.http_exchange import HttpExchange
from serving.gateway.ports import Exchange
from serving.inference import Buffer

Run = Callable[[bytes], Coroutine[Any, Any, bytes]]


def rest_errand(run: Run) -> Action:
    """Return the action that answers 200 with the JSON of `run(body)`; a ServingError that it raises in its own status."""

    def start(connection: HttpExchange, head: Head, body: Buffer) -> None:
        errand(
            connection,
            run(bytes(body)),
            lambda answer: connection.respond(200, b"application/json" if answer else b"", answer),
            identity_of(head.client),
        )

    return Action(start)


def grpc_errand(out: GrpcOut, read: Callable[[Head, Buffer], Buffer], run: Run) -> Action:
    """Return the action of a unary call that answers with the message `run(message)`. read: from a body to its one message."""

    def start(connection: GrpcExchange, head: Head, body: Buffer) -> None:
        errand(connection, run(bytes(read(head, body))), lambda answer: out.answer(connection, [answer]), identity_of(head.client))

    return Action(start, None, out.fail)


def errand(connection: Exchange, work: Coroutine[Any, Any, bytes], then: Callable[[bytes], None], who: str = "") -> None:
    """Run `work` as a task and go on with the connection's request by `then(result)`, unless the client has gone."""
    connection.work = job = _Errand()
    context = copy_context()
    context.run(asker.set, who)
    task = asyncio.get_running_loop().create_task(work, context=context)
    _under_way.add(task)

    def done(task: asyncio.Task[bytes]) -> None:
        _under_way.discard(task)
        failure = None if task.cancelled() else task.exception()
        if job.dropped or task.cancelled():
            return
        connection.work = None
        try:
            if failure is not None:
                raise failure
            then(task.result())
        except ServingError as error:
            connection.fail(error)
        except Exception as error:
            connection.bug(error)

    task.add_done_callback(done)


_under_way: set[asyncio.Task[bytes]] = set()
"""A loop keeps only weak references to its tasks."""


class _Errand:
    """Goes on, wanted or not."""

    dropped = False

    def cancel(self) -> None:
        self.dropped = True
