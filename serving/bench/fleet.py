"""The fleet: several processes that send, started, watched and counted by the one that asks for the load.

Each process is a Python of its own that knows nothing of the caller's threads and signals, and ends with the caller however that ends.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from serving.bench.counting import Counting
from serving.bench.dial import Address, Tls
from serving.bench.load import Closed, Load
from serving.bench.recording import Progress, Recording
from serving.bench.request import Request
from serving.bench.saturation import Machine, warnings
from serving.bench.session import Order, Wire
from serving.bench.tape import Kind, State, TapeReader
from serving.errors import Internal, InvalidArgument

_LOOK_S = 0.05
_PROGRESS_NS = 250_000_000
_HEAD_START_NS = 20_000_000
_PIPE_BYTES = 1 << 20
_START_S = 60.0


class Stop(Protocol):
    """threading.Event and multiprocessing.Event are such."""

    def is_set(self) -> bool: ...


def generate(
    address: str,
    protocol: Wire,
    requests: Sequence[Request],
    load: Load,
    progress: Callable[[Progress], None] | None = None,
    stop: Stop | None = None,
    tls: Tls | None = None,
) -> Recording:
    """Send this load to "host:port" or "unix:/path" and return what was measured.

    Ctrl-C (where this runs in the main thread) and `stop` end the measurement early: the answers under way are still waited for, for
    load.drain_s, or until Ctrl-C comes once more. `progress` is called about four times a second, in the calling thread.
    Raises InvalidArgument, Unavailable where the host's name is unknown, and Internal where one of the processes fails.
    """
    if not requests:
        raise InvalidArgument("no request to send")
    _check_connections(protocol, load)
    target = Address.parse(address)
    orders = [Order(target, tls, protocol, tuple(requests), load, part, load.processes) for part in range(load.processes)]
    counting = Counting(requests, load.processes)
    with ExitStack() as stack:
        interrupts = stack.enter_context(_Interrupts())
        crew = [stack.enter_context(_Worker(order)) for order in orders]
        machine = _Watch(crew, counting, progress, stop, interrupts).run()
    recording = counting.recording()
    recording.sent_bytes = _sent_bytes(requests, recording)
    recording.warnings += warnings(recording, load, machine)
    return recording


class _Watch:
    """The caller's side of one run."""

    def __init__(
        self,
        crew: list[_Worker],
        counting: Counting,
        progress: Callable[[Progress], None] | None,
        stop: Stop | None,
        interrupts: _Interrupts,
    ) -> None:
        self._crew = crew
        self._counting = counting
        self._progress = progress
        self._stop = stop
        self._interrupts = interrupts
        self._stops = 0
        self._next_progress = 0
        self._machine = Machine()
        self._ready: set[int] = set()
        self._selector = selectors.DefaultSelector()

    def run(self) -> Machine:
        with self._selector:
            for number, worker in enumerate(self._crew):
                self._selector.register(worker.output, selectors.EVENT_READ, number)
            give_up = time.monotonic() + _START_S
            while len(self._counting.ends) < len(self._crew):
                for key, _ in self._selector.select(_LOOK_S):
                    self._read(key.data)
                self._look_for_stop()
                now = time.monotonic_ns()
                self._counting.fold(now / 1e9)
                if len(self._ready) < len(self._crew) and now / 1e9 > give_up:
                    raise Internal(f"the processes that send did not start within {_START_S:.0f} s")
                if now >= self._next_progress:
                    self._next_progress = now + _PROGRESS_NS
                    self._tell(now)
                time.sleep(_LOOK_S if self._ready else 0)
            self._counting.fold(time.monotonic())
            self._machine.end()
        return self._machine

    def _read(self, number: int) -> None:
        worker = self._crew[number]
        data = os.read(worker.output.fileno(), _PIPE_BYTES)
        if not data:
            self._selector.unregister(worker.output)
            if number not in self._counting.ends:
                raise Internal(f"a process that sends has ended: {worker.last_words()}")
            return
        for record in worker.tape.feed(data):
            unpacked = pickle.loads(record.payload) if record.kind > Kind.LATE else None
            if isinstance(unpacked, State) and unpacked.phase == "ready":
                self._ready.add(number)
                if len(self._ready) == len(self._crew):
                    self._go()
                continue
            if isinstance(unpacked, State) and unpacked.phase != self._counting.phase:
                self._next_progress = 0  # a new phase is told at once
            self._counting.take(number, record, unpacked)

    def _go(self) -> None:
        begin = time.monotonic_ns() + _HEAD_START_NS
        self._machine.begin()
        for worker in self._crew:
            worker.tell(b"go %d\n" % begin)

    def _look_for_stop(self) -> None:
        """Each Ctrl-C counts: the second one ends the waiting for answers too."""
        wanted = self._interrupts.count + (self._stop is not None and self._stop.is_set())
        while self._stops < min(wanted, 2) and self._ready:
            self._stops += 1
            for worker in self._crew:
                worker.tell(b"stop\n")
        if wanted > 2 or (wanted and not self._ready):
            raise KeyboardInterrupt

    def _tell(self, now: int) -> None:
        shown = self._counting.progress(now)
        if self._progress is not None:
            self._progress(shown)


class _Worker:
    """One process, from its start to its end."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.tape = TapeReader()
        self._errors: IO[bytes]
        self._process: subprocess.Popen[bytes]
        self.output: IO[bytes]

    def __enter__(self) -> _Worker:
        self._errors = tempfile.TemporaryFile()
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "serving.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.output = self._process.stdout
        _enlarge(self.output.fileno())
        packed = pickle.dumps(self._order, pickle.HIGHEST_PROTOCOL)
        self.tell(len(packed).to_bytes(8, "big"))
        self.tell(packed)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.output.close()
        self._errors.close()

    def tell(self, data: bytes) -> None:
        """Write to the process; where it has ended, its output says so too."""
        assert self._process.stdin is not None
        view = memoryview(data)
        try:
            while view.nbytes:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            pass

    def last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()
        return f"exit code {code}: {words[-2000:]}"


class _Interrupts:
    """Counts Ctrl-C while it is entered, in the main thread; elsewhere none come."""

    def __init__(self) -> None:
        self.count = 0
        self._before: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def _check_connections(protocol: Wire, load: Load) -> None:
    if not isinstance(load.shape, Closed) or not load.connections:
        return
    streams = load.streams if protocol == "grpc" else 1
    if load.connections * streams < load.shape.concurrency:
        raise InvalidArgument(
            f"concurrency {load.shape.concurrency} on {load.connections} connections with {streams} requests at a time on each: "
            f"expected at least {-(-load.shape.concurrency // streams)} connections"
        )


def _sent_bytes(requests: Sequence[Request], recording: Recording) -> int:
    """Return the bytes of the bodies, by the mean of the requests of each name."""
    total = 0.0
    for name, tally in recording.requests.items():
        alike = [request for request in requests if request.name == name]
        weight = sum(request.weight for request in alike)
        total += sum(len(request.body) * request.weight for request in alike) / weight * (tally.answers + tally.failed)
    return round(total)


def _enlarge(fd: int) -> None:
    """Make a pipe large, so that a busy counter does not hold up who sends; where the system says no, it stays as it is."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass
