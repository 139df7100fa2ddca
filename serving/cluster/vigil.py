"""Vigil: what the engine's first process looks after while it runs: Ray, and what can be had anew while all goes on. Knows no Ray.

A process of Ray's that has gone is seen at once. One that lives and does not answer would be missed by nobody: predictions go on
without it, and only when something has to be replaced would nothing come.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.cluster.pulse import Pulse
from serving.errors import Unavailable

log = logging.getLogger(__name__)

EVERY_S = 3.0
"""Between two turns."""
RAY_PATIENCE, PATIENCE = 20, 5
"""Turns without an answer, in a row."""
STARTS = 40
"""Turns that what was replaced may take until its first answer, on a machine that has other work."""
ANSWER_S = 2.0


class Ended(Unavailable):
    """Ray has ended by itself, or lives and is of no use, and with it everything that runs on it."""


class Ward:
    """Somebody who is looked after. ask: as for a Pulse. replace: is called when there was no answer for a while."""

    def __init__(self, name: str, ask: Callable[[], None], replace: Callable[[], None]) -> None:
        self.name = name
        self.pulse = Pulse(name, ask)
        self._replace = replace
        self._new_at = -1

    def turn(self, *, helpless: bool) -> None:
        """Ask; replace where that is due. helpless: nothing can be replaced now."""
        silent = self.pulse.turn()
        patience = STARTS if self.pulse.answers == self._new_at else PATIENCE
        if helpless or silent < patience:
            return
        log.warning("%s has not answered for %g s: it is replaced", self.name, silent * EVERY_S)
        self._new_at = self.pulse.answers
        self._replace()
        self.pulse.forgive()


class Vigil:
    """ask_ray: as for a Pulse; raises Ended where Ray itself says that it has."""

    def __init__(self, ask_ray: Callable[[], None], wards: Sequence[Ward]) -> None:
        self._ended: Ended | None = None
        self._ask_ray = ask_ray
        self._ray = Pulse("Ray", self._listen)
        self._wards = wards

    @property
    def pulses(self) -> list[Pulse]:
        return [self._ray, *(ward.pulse for ward in self._wards)]

    def start(self) -> None:
        for pulse in self.pulses:
            pulse.start()

    def turn(self) -> None:
        """Look at all of them. Raises Ended."""
        if self._ended is not None:
            raise self._ended
        silent = self._ray.turn()
        if silent >= RAY_PATIENCE:
            raise Ended(f"Ray has not answered for {RAY_PATIENCE * EVERY_S:g} s")
        for ward in self._wards:
            ward.turn(helpless=silent > 1)  # without Ray nobody answers, and nobody would come in their place

    def _listen(self) -> None:
        try:
            self._ask_ray()
        except Ended as ended:
            self._ended = ended
            raise


def call_on(path: Path, kind: socket.SocketKind) -> None:
    """Return when whoever listens on a Unix socket has taken a call and hung up: there is nothing that we say. Raises Unavailable."""
    try:
        with socket.socket(socket.AF_UNIX, kind) as caller:
            caller.settimeout(ANSWER_S)
            caller.connect(str(path))
            caller.shutdown(socket.SHUT_WR)
            caller.recv(1)
    except OSError as error:
        raise Unavailable(f"{path.name} does not answer: {error}") from error
