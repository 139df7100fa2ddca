"""The nursery: a process that has imported what workers need, has one thread, and forks one for each order (`worker.py`).

    nursery              Ray, Serve, our shells
    └── nursery torch    the same and torch: one per list of modules, forked when first wanted or at the start
        └── worker       goes on as Ray's worker script, in the environment of the order

Ray's C++ reads its configuration while it is imported, so this starts after the raylet with the environment of a worker.
It ends with the raylet; where the engine was killed, it ends what that leaves behind (Ray's own agents stay for a minute or more).
Nothing here may start a thread before a fork: that is why OPENBLAS_NUM_THREADS is 1. Nor may anything draw
from the random numbers of Ray's C++: all workers would go on with the same ones, and ids of their tasks would collide (seen: Serve's
controller died of it). `@ray.remote` does so where a class is defined, so it is given other random bytes while we import.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import ray.actor as ray_actor
from ray._raylet import ActorClassID, NodeID, setproctitle  # type: ignore[attr-defined]

from serving.cluster import leftovers
from serving.cluster.boot import TAG
from serving.cluster.ends import Reaper
from serving.cluster.worker import ENTRY, SOCKET

COMMON = ("ray.serve._private.replica", "ray.serve._private.controller", "ray.dag.compiled_dag_node", "serving.cluster.office")
ORDER_BYTES = 1 << 18
CLEAR_UP_S = 4.0


def main(preloads: list[str]) -> None:
    """Serve orders until the raylet ends. `preloads`: lists of modules (comma-separated) for which to have a nursery at once."""
    setproctitle("serving: nursery")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # until there is a reaper
    engine = os.getppid()
    raylet = os.pidfd_open(int(os.environ["RAY_RAYLET_PID"]))
    path = os.environ[SOCKET]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    Path(path).chmod(0o600)
    listener.listen(64)
    _load(COMMON)
    Nursery(raylet, listener, Path(path).parent, [p for p in preloads if not p.startswith("-")]).run()
    _clear_up(engine, Path(path).parent)


def _clear_up(engine: int, run_dir: Path) -> None:
    """End the processes of an engine that was killed, after a moment in which most end by themselves."""
    end = time.monotonic() + CLEAR_UP_S
    while os.getppid() == engine:  # its threads die one after another; or it lives, and only Ray has ended
        if time.monotonic() > end:
            return
        time.sleep(0.05)
    leftovers.outlast(TAG, os.environ[TAG], CLEAR_UP_S)
    leftovers.remove(run_dir)


class Nursery:
    """Takes orders from workers-to-be; hands those that want more modules to a nursery that has them."""

    def __init__(self, raylet: int, listener: socket.socket, run_dir: Path, preloads: list[str]) -> None:
        self._raylet = raylet
        self._listener = listener
        self._run_dir = run_dir
        self._reaper = Reaper(run_dir)
        self._special: dict[str, socket.socket] = {}
        for preload in preloads:
            self._branch(preload)

    def run(self) -> None:
        poll = select.poll()
        for waited in (self._raylet, self._listener, self._reaper):
            poll.register(waited, select.POLLIN)
        while self._raylet not in (ready := {fd for fd, _ in poll.poll()}):
            if self._reaper.fileno() in ready:
                self._reaper.reap()
            if self._listener.fileno() not in ready:
                continue
            try:
                customer, _ = self._listener.accept()
                self._serve(customer)
            except OSError:
                # the one who asked has gone, or this machine is out of processes: it becomes an ordinary worker
                continue

    def _serve(self, customer: socket.socket) -> None:
        with customer:
            data, streams, _, _ = socket.recv_fds(customer, ORDER_BYTES, 3)
            if not data:
                return
            preload = ",".join(json.loads(data)["preload"])
            try:
                if not preload:
                    inherited = [self._raylet, self._listener.fileno(), *map(_number, self._special.values())]
                    _fork(customer, data, streams, inherited, self._reaper)
                else:
                    self._hand_on(preload, data, [*streams, customer.fileno()])
            finally:
                for stream in streams:
                    os.close(stream)

    def _hand_on(self, preload: str, data: bytes, descriptors: list[int]) -> None:
        if preload not in self._special:
            self._branch(preload)
        try:
            socket.send_fds(self._special[preload], [data], descriptors)
        except OSError:
            self._special.pop(preload).close()
            self._branch(preload)
            socket.send_fds(self._special[preload], [data], descriptors)

    def _branch(self, preload: str) -> None:
        """Fork a nursery that imports these modules and takes its orders from us."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            theirs.close()
            self._special[preload] = ours
            return
        for inherited in (ours, self._listener, *self._special.values()):
            inherited.close()
        os.close(self._raylet)
        self._reaper.forget()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        setproctitle(f"serving: nursery {preload}")
        _load(preload.split(","))
        _tend(theirs, Reaper(self._run_dir))


def _tend(orders: socket.socket, reaper: Reaper) -> NoReturn:
    """Fork a worker for each order until the nursery above ends."""
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    poll.register(reaper, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if reaper.fileno() in ready:
            reaper.reap()
        if orders.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES, 4)
        if not data:
            os._exit(0)
        with socket.socket(fileno=descriptors[3]) as customer:
            try:
                _fork(customer, data, descriptors[:3], [orders.fileno()], reaper)
            finally:
                for stream in descriptors[:3]:
                    os.close(stream)


def _fork(customer: socket.socket, data: bytes, streams: list[int], inherited: list[int], reaper: Reaper) -> None:
    """Fork a worker and tell the customer. In the worker this does not return."""
    if not os.fork():
        try:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            customer.close()
            reaper.forget()
            for descriptor in [*inherited, *streams]:
                os.close(descriptor)
            _become(json.loads(data))
        finally:
            os._exit(1)
    customer.send(b"forked")


def _become(order: dict[str, Any]) -> None:
    """Go on as Ray's worker script, with what a process that Ray had started itself would have."""
    signal.pthread_sigmask(signal.SIG_SETMASK, order["blocked"])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["directory"])
    os.setpgid(0, 0)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    script = os.environ[ENTRY]
    sys.argv = [script, *order["arguments"]]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")
    sys.stdout.flush()
    os._exit(0)


def _load(modules: list[str] | tuple[str, ...]) -> None:
    """Import what is there; a module that cannot be imported is the worker's own error to report."""
    drawn = vars(ray_actor)["ActorClassID"]
    vars(ray_actor)["ActorClassID"] = _ClassIds
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    vars(ray_actor)["ActorClassID"] = drawn
    if len({_forked_random() for _ in range(2)}) == 1 or len(os.listdir("/proc/self/task")) > 1:
        sys.exit("an import has drawn random numbers of Ray's, or started a thread: no worker can be forked from here")
    gc.collect()
    gc.freeze()


class _ClassIds:
    """In place of `ActorClassID`, which draws from random numbers that a fork would copy."""

    @staticmethod
    def from_random() -> ActorClassID:
        return ActorClassID(os.urandom(ActorClassID.size()))


def _forked_random() -> bytes:
    """Return the first random id that a fork of this process draws."""
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, NodeID.from_random().binary())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        return answer.read()


def _number(s: socket.socket) -> int:
    return s.fileno()


if __name__ == "__main__":
    main(sys.argv[1:])
