"""The watch, against real processes that answer, stop, hang or drain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cluster.watch import Watch
from tests.cluster.running import wait

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel whose socket it is")
TICK_S = 0.5
"""Four of them without a sign of life are the end: a process that lives must not look dead because others have the processor."""
REPLICA = """
import sys, time
from pathlib import Path
from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.replica.host import ReplicaHost
from serving.tensor import DType, Signature, TensorSpec

Path(sys.argv[1], "m.py").write_text("class M:\\n    def predict(self, inputs): return {'y': inputs['x']}")
x = TensorSpec("x", DType.FP32, (1,))
plan = VersionPlan("m", "1", "python", sys.argv[1] + "/m.py", "M", signature=Signature((x,), (TensorSpec("y", DType.FP32, (1,)),)))
host = ReplicaHost(HostPlan((plan,)), "a", sys.argv[1], arena_bytes=0)
host.start()
for line in sys.stdin:
    if line == "hang\\n":
        host._loop.call_soon_threadsafe(time.sleep, 3600)
    if line == "drain\\n":
        print(host.drain(20.0), flush=True)
        break
"""
GATEWAY = """
import sys
from serving.edge.listeners import open_unix
from serving.gateway.server import GatewayServer

server = GatewayServer("a", sys.argv[1])
server.start([open_unix(sys.argv[1] + "/gateway-0.sock")])
sys.stdin.read()
"""


class Node:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.killed: list[int] = []
        self.watch = Watch(run_dir, self.killed.append, TICK_S)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, script: str, sock: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(self.run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.processes.append(process)
        wait(lambda: (self.run_dir / sock).exists(), 30, sock)
        return process

    def watched(self, count: int) -> None:
        wait(lambda: sum(w.silent <= 1 and w._transport is not None for w in self.watch._watched.values()) == count, 120, "all are watched")

    def turns(self, count: int) -> None:
        """Return when the watch has turned so often."""
        turned = threading.Event()
        self.watch._loop.call_soon_threadsafe(self.watch._loop.call_later, count * TICK_S, turned.set)
        assert turned.wait(60)


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("w"))
    node.watch.start()
    yield node
    node.watch.stop()
    for process in node.processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("script", "sock"), [(REPLICA, "replica-a.sock"), (GATEWAY, "gateway-0.sock")])
def test_a_process_that_is_stopped_is_killed_and_one_that_answers_is_not(node: Node, script: str, sock: str) -> None:
    process = node.start(script, sock)
    node.watched(1)
    node.turns(6)
    assert node.killed == []
    os.kill(process.pid, signal.SIGSTOP)
    wait(lambda: process.pid in node.killed, 120, "it is found by its silence")


def test_a_replica_whose_loop_hangs_is_killed(node: Node) -> None:
    process = node.start(REPLICA, "replica-a.sock")
    assert process.stdin is not None
    node.watched(1)
    process.stdin.write("hang\n")
    wait(lambda: process.pid in node.killed, 120, "it is found by its silence")


def test_one_that_was_stopped_before_it_was_seen_is_found_too(node: Node) -> None:
    node.watch._loop.call_soon_threadsafe(node.watch._loop.stop)
    node.watch._thread.join()
    process = node.start(REPLICA, "replica-a.sock")
    os.kill(process.pid, signal.SIGSTOP)
    node.watch = Watch(node.run_dir, node.killed.append, TICK_S)
    node.watch.start()
    wait(lambda: process.pid in node.killed, 120, "it is found by its silence")


def test_a_drain_does_not_wait_for_the_watch(node: Node) -> None:
    process = node.start(REPLICA, "replica-a.sock")
    assert process.stdin is not None
    assert process.stdout is not None
    node.watched(1)
    process.stdin.write("drain\n")
    assert process.stdout.readline() == "True\n"
    assert process.wait(60) == 0
    node.turns(2)
    assert node.killed == []
    assert node.watch._watched == {}
