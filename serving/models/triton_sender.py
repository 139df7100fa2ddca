"""ResponseSender: how a decoupled TritonPythonModel answers, while `execute` runs or after it, from any thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from threading import Condition
from typing import Generic, TypeVar

Response = TypeVar("Response")
FINAL = 1
"""TRITONSERVER_RESPONSE_COMPLETE_FINAL."""
MAX_UNREAD = 1024
"""Answers that may wait for a client that reads slowly; with so many, `send` waits."""


class ResponseSender(Generic[Response]):
    """One request's answers: the model sends them, the replica reads them in order until the one that is the last.

    When the client has gone, `is_cancelled` says so, and what is sent goes nowhere.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._unread: deque[Response] = deque()
        self._failed: BaseException | None = None
        self._over = False
        self._closed = False

    def send(self, response: Response | None = None, flags: int = 0) -> None:
        """Send an answer, or with FINAL alone the word that there are no more. Raises ValueError behind the last one."""
        if flags not in (0, FINAL):
            raise ValueError(f"Unable to send response. Unsupported flag {flags}, expected 0 or TRITONSERVER_RESPONSE_COMPLETE_FINAL")
        if response is None and not flags:
            raise ValueError("Inference Response object must be provided when the response flags is set to zero.")
        with self._changed:
            if self._over:
                raise ValueError("Unable to send response. Response sender has been closed.")
            self._changed.wait_for(lambda: self._closed or len(self._unread) < MAX_UNREAD)
            if response is not None and not self._closed:
                self._unread.append(response)
            self._over = bool(flags)
            self._changed.notify_all()

    def is_cancelled(self) -> bool:
        return self._closed

    def fail(self, error: BaseException) -> None:
        """`execute` has raised: whoever reads gets it behind what was sent before."""
        with self._changed:
            self._failed = error
            self._changed.notify_all()

    def read(self) -> Generator[Response, None, None]:
        """Give the answers as they come; close it where nobody wants more."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._unread or self._over or self._failed is not None)
                    if not self._unread:
                        if self._failed is not None:
                            raise self._failed
                        return
                    response = self._unread.popleft()
                    self._changed.notify_all()
                yield response
        finally:
            with self._changed:
                self._closed = True
                self._unread.clear()
                self._changed.notify_all()

    def __repr__(self) -> str:
        return f"ResponseSender({len(self._unread)} unread{', closed' if self._closed else ', over' if self._over else ''})"
