"""Pulse: whether somebody still answers. Asked in a thread of its own, for a question that is never answered must hold nobody up.

It counts turns, not seconds: a turn is a question that could have been asked, so nobody is given up because this process stood still.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from serving.errors import ServingError

log = logging.getLogger(__name__)


class Pulse:
    """ask: returns when there is an answer; raises ServingError where there is none, or never returns. answers: how many there were."""

    def __init__(self, name: str, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._name = name
        self._wanted = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self._silent = 0
        self.answers = 0
        self._thread = threading.Thread(target=self._run, name=f"pulse of {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def turn(self) -> int:
        """Ask, unless the last question is still open; return how many turns before this one have gone by without an answer."""
        silent = self._silent
        self._silent += 1
        if self._free.is_set():
            self._free.clear()
            self._wanted.set()
        return silent

    def forgive(self) -> None:
        """Count anew: something has been done about it."""
        self._silent = 0

    def wait(self, timeout_s: float) -> bool:
        """Return whether the last question is over when the time is."""
        return self._free.wait(timeout_s)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            try:
                self._ask()
                self._silent = 0
                self.answers += 1
            except ServingError as error:
                log.info("%s: %s", self._name, error.message)
            self._free.set()
