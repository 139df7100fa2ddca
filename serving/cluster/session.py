"""Session: what a person sees of an engine in the foreground, and how they stop it. Knows no Ray."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import TextIO

from serving.cluster.boot import Boot


class Session:
    """stop_asked: set by the first SIGINT or SIGTERM. hurry: set by the second, what drains is not waited for.

    ready_at: when the engine was ready, on the machine's monotonic clock in seconds; 0.0 = it is not yet.
    """

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self.stop_asked = threading.Event()
        self.hurry = threading.Event()
        self.ready_at = 0.0

    def say(self, text: str, out: TextIO = sys.stderr) -> None:
        """Print a line with the time since the command was given."""
        out.write(f"{time.monotonic() - self.boot.started:6.1f} s  {text}\n")
        out.flush()

    @property
    def lived_s(self) -> float:
        """How long the engine has been ready."""
        return time.monotonic() - self.ready_at if self.ready_at else 0.0

    def listen(self) -> None:
        """Take the signals that end the engine; in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop_asked.is_set():
            self.hurry.set()
        self.stop_asked.set()
