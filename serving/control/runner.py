"""Runner: turns a Controller in a thread of its own, often while something changes and every two seconds otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from serving.control.acceptance import Act
from serving.control.controller import Controller
from serving.control.ports import Revision
from serving.control.status import Status
from serving.control.wishes import Edit, Tell, untold
from serving.errors import ServingError, Unavailable
from serving.plan import Outlook, Target, World
from serving.wishes import Wishes

log = logging.getLogger(__name__)

IDLE_S = 2.0
BUSY_S = 0.1
TROUBLED_S = 2.0
WISH_S = 30.0
"""How long a client waits for all gateways to know what it has asked for."""


REACH_S = 5.0
"""How long it is waited for gateways to have an edit."""


class SystemClock:
    """The Clock of a real engine."""

    def now(self) -> float:
        return time.time()


class Runner:
    """All methods may be called from any thread."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._turned = threading.Condition()
        self._wanted = threading.Event()
        self._stopping = False
        self._beat = time.monotonic()
        self._turns = 0
        self._thread = threading.Thread(target=self._run, name="controller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what runs goes on."""
        self._stopping = True
        self._wanted.set()
        self._thread.join(10.0)

    def wake(self) -> None:
        """Tick soon: something has changed."""
        self._wanted.set()

    @property
    def status(self) -> Status:
        return self._controller.status

    @property
    def target(self) -> Target:
        return self._controller.target

    def change(self, edit: Callable[[Target], Target], act: Act, again: Collection[str] = ()) -> int:
        """Accept what `edit` makes of the target now; return its revision. Raises what `edit` raises. `again`: see Controller.accept."""
        with self._turned:
            number = self._controller.accept(edit(self._controller.target), act, again)
        self._wanted.set()
        return number

    def world(self) -> tuple[Revision | None, World]:
        """Return the revision that is worked on, and what was asked for and seen last."""
        with self._turned:
            return self._controller.revision, self._controller.world

    def outlook(self, edit: Callable[[Target], Target]) -> tuple[Revision | None, Target, Outlook]:
        """Return what accepting what `edit` makes of the target now would do, with the revision that it stands on and that target."""
        with self._turned:
            target = edit(self._controller.target)
            return self._controller.revision, target, self._controller.outlook(target)

    @property
    def shares_memory(self) -> bool:
        """Clients may register shared memory."""
        return self._controller.target.settings.client_shared_memory

    def wish(self, edit: Edit, tell: Tell = untold) -> Wishes:
        """Edit what clients wish; return when every gateway knows. Raises what `edit` raises, Unavailable where one does not answer.

        What `tell` makes of the change is on record then.
        """
        with self._turned:
            wishes = self._controller.wish(edit, tell)
        self._wanted.set()
        with self._turned:
            if not self._turned.wait_for(lambda: self._controller.wishes_told >= wishes.number, WISH_S):
                raise Unavailable(f"not every gateway has answered within {WISH_S:g} s; it will be told", retry_after_s=1.0)
        return wishes

    def wait(self, revision: int, timeout_s: float) -> Status:
        """Return the status when the revision (or a later one) is settled, or when the time is over.

        With 0 it is returned when every gateway has what can be had at once: routes to versions that are ready. What has to start
        first comes later. Where a gateway does not answer, that takes REACH_S.
        """
        with self._turned:
            if timeout_s:
                self._turned.wait_for(lambda: self.status.settled and self.status.revision >= revision, timeout_s)
            else:
                self._turned.wait_for(lambda: self.status.worked >= revision and not self.status.behind, REACH_S)
            return self.status

    def tell(self, timeout_s: float) -> bool:
        """Have gateways told what has changed beside the target; return whether all of them know when the time is over."""
        with self._turned:
            after = self._turns
            self._wanted.set()
            return self._turned.wait_for(lambda: self._turns > after and self._controller.told, timeout_s)

    def wait_until(self, condition: Callable[[Status], bool], timeout_s: float) -> bool:
        """Return when the condition holds after a round, True; False when the time is over."""
        with self._turned:
            return self._turned.wait_for(lambda: condition(self.status), timeout_s)

    def healthy(self, longest_s: float = 60.0) -> None:
        """Raise Unavailable when no tick has ended for so long."""
        late = time.monotonic() - self._beat
        if not self._thread.is_alive() or late > longest_s:
            raise Unavailable(f"the controller has not turned for {late:.0f} s")

    def _run(self) -> None:
        while not self._stopping:
            pause_s = self._tick()
            self._beat = time.monotonic()
            self._wanted.wait(pause_s)
            self._wanted.clear()

    def _tick(self) -> float:
        with self._turned:
            try:
                self._controller.tick()
            except ServingError as error:
                log.warning("tick: %s", error.message)
                self._controller.hindered(error.message)
                return TROUBLED_S
            except Exception:
                # the controller must outlive what it did not expect; the next tick observes anew
                log.exception("tick")
                return TROUBLED_S
            self._turns += 1
            self._turned.notify_all()
            return IDLE_S if self.status.settled else BUSY_S
