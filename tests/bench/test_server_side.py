from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from serving.bench.process_tree import TAG, ProcessTree, Usage, is_local, of_pid, of_port
from serving.bench.server_side import Counts, Reading, between
from serving.errors import InvalidArgument

SERVER = """
import os, socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
idle = "import sys; print('up', flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", idle], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(listener.getsockname()[1], child.pid, flush=True)
for line in sys.stdin:
    sum(i * i for i in range(int(line)))
    print("done", flush=True)
child.stdin.close()
child.wait()
"""


class Server:
    """A process that listens and has a child; `work` makes it use CPU."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.port, self.child = map(int, self.process.stdout.readline().split())

    def work(self, steps: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.end()


def entry(requests: int, executions: int, **ms: int) -> dict[str, Any]:
    spans = {"success": 10, "queue": 3, "compute_input": 1, "compute_infer": 4, "compute_output": 2} | ms
    return {
        "execution_count": str(executions),  # protobuf's JSON has 64-bit numbers as text
        "inference_stats": {name: {"count": requests, "ns": str(requests * each * 1_000_000)} for name, each in spans.items()},
        "batch_stats": [{"batch_size": 1, "compute_infer": {"count": executions}}, {"batch_size": "8", "compute_infer": {"count": "2"}}],
    }


def test_counts_add_up_over_versions() -> None:
    total = Counts.of([entry(10, 5), entry(20, 7)])
    assert (total.requests, total.executions) == (30, 12)
    assert total.ns == tuple(30 * ms * 1_000_000 for ms in (10, 3, 1, 4, 2))
    assert total.batches == ((1, 12), (8, 4))


def test_what_is_missing_counts_as_nothing() -> None:
    assert Counts.of([{}, {"inference_stats": {"queue": None}, "batch_stats": None}]) == Counts()


def test_the_split_is_the_mean_of_what_was_counted_between() -> None:
    before = Reading(Counts.of([entry(100, 50)]), None)
    after = Reading(Counts.of([entry(300, 60, queue=5)]), None)
    found = between(before, after, mean_latency_ms=20.0, answers=200, wall_s=1.0)
    assert found.queue_ms == pytest.approx((300 * 5 - 100 * 3) / 200)
    assert found.compute_ms == pytest.approx(7.0)
    assert found.network_ms == pytest.approx(20.0 - 6.0 - 7.0)
    assert found.batch_sizes == {"1": 10}
    assert found.cpu_s_per_1000 is None


def test_a_server_without_statistics_has_no_split() -> None:
    found = between(Reading(None, None), Reading(None, None), mean_latency_ms=5.0, answers=10, wall_s=1.0)
    assert (found.queue_ms, found.compute_ms, found.network_ms, found.batch_sizes) == (None, None, None, {})


@pytest.mark.parametrize("after", [Counts(), Counts.of([entry(100, 50)]), Counts.of([entry(50, 20)])])
def test_counts_that_do_not_rise_say_nothing(after: Counts) -> None:
    found = between(Reading(Counts.of([entry(100, 50)]), None), Reading(after, None), mean_latency_ms=5.0, answers=10, wall_s=1.0)
    assert found.queue_ms is None


def test_network_time_is_never_negative() -> None:
    found = between(Reading(Counts(), None), Reading(Counts.of([entry(10, 10)]), None), mean_latency_ms=1.0, answers=10, wall_s=1.0)
    assert found.network_ms == 0.0


def test_cpu_is_told_for_a_thousand_answers() -> None:
    before, after = Reading(None, Usage(1.0, 10, 5, 1)), Reading(None, Usage(3.0, 20, None, 2))
    found = between(before, after, mean_latency_ms=None, answers=4000, wall_s=4.0)
    assert (found.cpu_s_per_1000, found.cores, found.rss_bytes, found.pss_bytes) == (0.5, 0.5, 20, None)
    assert between(before, after, mean_latency_ms=None, answers=0, wall_s=0.0).cpu_s_per_1000 is None


def test_the_tree_of_a_port_has_the_children_too(server: Server) -> None:
    tree = of_port("127.0.0.1", server.port)
    assert tree is not None
    usage = tree.read()
    assert repr(tree) == f"ProcessTree({', '.join(map(str, sorted((server.process.pid, server.child))))})"
    assert usage.processes == 2
    assert usage.rss_bytes > 0


def test_cpu_grows_with_work_and_never_falls_when_a_process_ends(server: Server) -> None:
    tree = ProcessTree([server.process.pid])
    first = tree.read().cpu_s
    server.work(3_000_000)
    worked = tree.read().cpu_s
    assert worked >= first + 0.01
    server.end()
    assert tree.read().cpu_s >= worked
    assert len(tree) == 0


def test_processes_with_the_same_tag_belong_together() -> None:
    tag = {TAG: f"test-{os.getpid()}"}
    one, other = Server(tag), Server(tag)
    try:
        tree = ProcessTree([one.process.pid])
        assert tree.read().processes == 4
        assert str(other.child) in repr(tree)
    finally:
        one.end()
        other.end()


def test_our_own_processes_are_never_taken_for_the_servers_first() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tree = of_port("127.0.0.1", listener.getsockname()[1])
        assert tree is not None
        assert repr(tree) == f"ProcessTree({os.getpid()})"


def test_nobody_listens_and_other_machines() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert of_port("127.0.0.1", port) is None
    assert of_port("192.0.2.1", 80) is None  # an address that no machine has (RFC 5737)
    assert is_local("localhost")
    assert not is_local("no-such-host.invalid")
    with pytest.raises(InvalidArgument, match=f"there is no process {2**22}"):
        of_pid(2**22)
    assert ProcessTree([2**22]).read() == Usage(0.0, 0, None, 0)
