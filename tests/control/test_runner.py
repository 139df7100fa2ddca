"""What the status says while the controller cannot do its work."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

from serving.control.controller import Controller
from serving.control.runner import Runner
from serving.errors import Unavailable
from tests.control.fake_cluster import FakeClock, FakeCluster, FakeStore


class FullStore(FakeStore):
    """Its disk is full until somebody makes room."""

    room = False

    def next_publication(self) -> int:
        if not self.room:
            raise Unavailable("state.db: database or disk is full")
        return super().next_publication()


def test_the_status_says_what_holds_the_controller_up_until_it_goes_on() -> None:
    store = FullStore()
    runner = Runner(Controller(FakeCluster(), store, FakeClock()))
    runner.start()
    try:
        until(lambda: runner.status.waiting == ("state.db: database or disk is full",))
        assert not runner.status.settled
        store.room = True
        runner.wake()
        until(lambda: not any("full" in words for words in runner.status.waiting))
    finally:
        runner.stop()


def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 60
    while not condition():
        assert monotonic() < end
        sleep(0.005)
