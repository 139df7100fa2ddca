"""A process that sends: `python -m serving.bench.worker`, started by fleet.py. Its order comes in on stdin, its tape leaves by stdout.

It ends when stdin does, so it never outlives who started it. `go <ns>` gives the start on the monotonic clock, `stop` ends early.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import sys
from pathlib import Path

from serving.bench.reactor import Reactor
from serving.bench.session import Order, Session
from serving.bench.tape import TapeWriter


def main() -> int:
    order = _read_order(0)
    tape_fd = os.dup(1)
    os.dup2(2, 1)  # a check that prints must not write into the tape
    _widen()
    reactor = Reactor()
    session = Session(order, TapeWriter(tape_fd), reactor)
    orders = b""

    def commanded(now: int) -> None:
        nonlocal orders
        data = os.read(0, 4096)
        if not data:
            os._exit(1)
        *lines, orders = (orders + data).split(b"\n")
        for line in lines:
            if line.startswith(b"go "):
                reactor.at(int(line[3:]), session.begin)
            else:
                session.interrupt(now)

    reactor.watch(0, commanded)
    session.prepare()
    # Nothing here makes cycles request by request, and a collection is a pause of milliseconds between two requests.
    gc.collect()
    gc.freeze()
    gc.disable()
    reactor.run()
    return 0


def _read_order(fd: int) -> Order:
    """Return the order: a pickle behind its length."""
    order = pickle.loads(_read_exactly(fd, int.from_bytes(_read_exactly(fd, 8), "big")))
    assert isinstance(order, Order)
    return order


def _read_exactly(fd: int, nbytes: int) -> bytearray:
    data = bytearray()
    while len(data) < nbytes:
        piece = os.read(fd, nbytes - len(data))
        if not piece:
            raise SystemExit(1)
        data += piece
    return data


def _widen() -> None:
    """Allow as many sockets as the system does, and timers that are exact."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        Path("/proc/self/timerslack_ns").write_text("1")
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
