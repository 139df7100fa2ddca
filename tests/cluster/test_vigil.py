"""What the engine's first process does about those that live and do not answer. Nobody here is real but a socket."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cluster.vigil import PATIENCE, RAY_PATIENCE, STARTS, Ended, Vigil, Ward, call_on
from serving.errors import Unavailable

LONG_S = 60.0


class Engine:
    """Ray and two wards. silent: names of those that do not answer."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.ended = False
        self.replaced: list[str] = []
        self.vigil = Vigil(self.ask_ray, [self.ward("serve"), self.ward("nursery")])
        self.vigil.start()

    def ward(self, name: str) -> Ward:
        return Ward(name, lambda: self.answer(name), lambda: self.replaced.append(name))

    def answer(self, name: str) -> None:
        if name in self.silent:
            raise Unavailable("no answer")

    def ask_ray(self) -> None:
        if self.ended:
            raise Ended("Ray has given up this machine")
        self.answer("ray")

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.vigil.turn()
            for pulse in self.vigil.pulses:
                assert pulse.wait(LONG_S)


def test_where_all_answer_nothing_is_done() -> None:
    engine = Engine()
    engine.turns(3 * RAY_PATIENCE)
    assert engine.replaced == []


def test_a_ray_that_does_not_answer_has_ended() -> None:
    engine = Engine()
    engine.silent = {"ray"}
    engine.turns(RAY_PATIENCE)
    with pytest.raises(Ended, match="has not answered for 60 s"):
        engine.turns(1)


def test_a_ray_that_says_so_has_ended_at_the_next_turn() -> None:
    engine = Engine()
    engine.ended = True
    engine.turns(1)
    with pytest.raises(Ended, match="given up this machine"):
        engine.turns(1)


def test_who_hangs_is_replaced_once_and_has_time_to_start() -> None:
    engine = Engine()
    engine.silent = {"nursery"}
    engine.turns(PATIENCE)
    assert engine.replaced == []
    engine.turns(1 + STARTS)
    assert engine.replaced == ["nursery"]
    engine.turns(1)
    assert engine.replaced == ["nursery", "nursery"]


def test_who_has_answered_again_is_given_up_as_soon_as_before() -> None:
    engine = Engine()
    engine.silent = {"serve"}
    engine.turns(PATIENCE + 1)
    engine.silent = set()
    engine.turns(2)
    assert engine.replaced == ["serve"]
    engine.silent = {"serve"}
    engine.turns(PATIENCE + 1)
    assert engine.replaced == ["serve", "serve"]


def test_nobody_is_replaced_for_the_silence_of_ray() -> None:
    engine = Engine()
    engine.silent = {"ray", "serve", "nursery"}
    engine.turns(RAY_PATIENCE)
    assert engine.replaced == []
    engine.silent = {"serve"}
    with pytest.raises(Ended):  # it came too late
        engine.turns(1)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        yield Path(short) / "x.sock"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_call_is_over_when_the_other_side_hangs_up(path: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as listener:
        listener.bind(str(path))
        listener.listen()

        def take() -> None:
            taken, _ = listener.accept()
            with taken:
                taken.recv(1)

        taker = threading.Thread(target=take)
        taker.start()
        call_on(path, kind)
        taker.join(LONG_S)
        assert not taker.is_alive()


def test_where_nobody_is_or_nobody_takes_the_call_that_is_said(path: Path) -> None:
    with pytest.raises(Unavailable, match=r"x\.sock does not answer"):
        call_on(path, socket.SOCK_STREAM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(Unavailable, match="timed out"):
            call_on(path, socket.SOCK_STREAM)
