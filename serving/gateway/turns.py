"""Turns: work that is cut into slices, one slice of all that waits in each turn of the loop, so that others are answered in between.

For large JSON, and for what takes far more time than its bytes tell: ten thousands of chunks of one byte are a body that HTTP allows.
However many send such things, whoever sends none waits for one slice a turn.

In the loop and not in a thread: a thread that works in Python takes the interpreter from the loop for as long as it likes to switch, and
measured no better for others than work in one piece, and twice as long for whoever asked.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from serving.errors import ServingError
from serving.gateway.offload import go_on
from serving.gateway.ports import Exchange

MAX_JOBS = 64
"""Pieces of work under way; one more has to be done at once."""

CROWD = 8
"""Connections that send what takes far more time than its bytes tell: more of them at once are an attack, ..."""
PAUSE_S = 0.001
"""... and between two of their slices (0.4 ms) the processor is for everybody else."""

T = TypeVar("T")


class Turns:
    """The work of one gateway. All of it has its turn, in order. Lives in the loop's thread."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], bool]] = deque()
        self._jobs = 0
        self._called = False
        """The next turn is on its way."""

    def join(self, step: Callable[[], bool]) -> None:
        """Have `step` called, a slice of work each time, until it returns False. As many as there are connections may have joined."""
        self._waiting.append(step)
        self._call()

    def begin(self, connection: Exchange, work: Generator[None, None, T], then: Callable[[T], None]) -> bool:
        """Do the work in slices, and go on with the connection's request by `then(result)`, unless the client has gone.

        False where there is enough to do already.
        """
        if self._jobs >= MAX_JOBS:
            return False
        self._jobs += 1
        connection.work = job = _Job(connection, work, then)

        def step() -> bool:
            more = job.step()
            self._jobs -= not more
            return more

        self.join(step)
        return True

    def _call(self) -> None:
        if self._waiting and not self._called:
            self._called = True
            if len(self._waiting) - self._jobs > CROWD:
                self._loop.call_later(PAUSE_S, self._turn)
            else:
                self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._called = False
        step = self._waiting.popleft()
        try:
            if step():
                self._waiting.append(step)
        finally:
            self._call()

    def __repr__(self) -> str:
        return f"Turns({len(self._waiting)} waiting, {self._jobs} of them jobs)"


class _Job:
    """What the connection may cancel."""

    __slots__ = ("_connection", "_then", "_work")

    def __init__(self, connection: Exchange, work: Generator[None, None, Any], then: Callable[[Any], None]) -> None:
        self._connection = connection
        self._work: Generator[None, None, Any] | None = work
        self._then = then

    def cancel(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None

    def step(self) -> bool:
        """Do one slice; True while there is more to do."""
        if self._work is None:
            return False
        connection = self._connection
        try:
            next(self._work)
            return True
        except StopIteration as end:
            self._work = None
            connection.work = None
            go_on(connection, self._then, end.value)
        except ServingError as error:
            self._work = None
            connection.work = None
            connection.fail(error)
        except Exception as error:
            self._work = None
            connection.bug(error)
        return False
