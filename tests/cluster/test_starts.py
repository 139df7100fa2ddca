"""How failures to start are counted, and how long the next try waits. Time is a number; dead processes are real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cluster.ends import FOLDER as ENDS
from serving.cluster.starts import FOLDER, FORGET_S, KEPT, LONGEST_S, QUICK_S, Standing, Starts

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="knows dead processes by /proc")
CHILD = """
import sys
from pathlib import Path
from serving.cluster.starts import Starts
starts = Starts(Path(sys.argv[1]), "mlp/1", lambda: float(sys.argv[3]))
starts.begin(sys.argv[2], "code")
if sys.argv[4] != "0":
    starts._clock = lambda: float(sys.argv[4])
    starts.ready()
"""


class Node:
    """The run directory of a node, and its time."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.now = 1000.0

    def starts(self) -> Starts:
        return Starts(self.run_dir, "mlp/1", lambda: self.now)

    def fail(self, name: str, reason: str = "no such file", code: str = "code") -> None:
        start = self.starts()
        start.begin(name, code)
        start.failed(reason)

    def die(self, name: str, lived_s: float = -1.0) -> int:
        """Have a process begin to load, be ready if `lived_s` is given, and die after that; return its pid."""
        ready = self.now if lived_s >= 0 else 0
        command = [sys.executable, "-c", CHILD, str(self.run_dir), name, str(self.now), str(ready)]
        process = subprocess.Popen(command)
        assert process.wait() == 0
        self.now += max(0.0, lived_s)
        return process.pid

    def note(self, pid: int, code: int) -> None:
        """What the nursery says of the process."""
        file = self.run_dir / ENDS / str(pid)
        file.parent.mkdir(exist_ok=True)
        file.write_text(str(code))
        os.utime(file, (self.now, self.now))

    def delay_s(self) -> float:
        standing = self.starts().standing("code")
        return max(0.0, standing.next_try - self.now)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_delay_doubles_up_to_a_bound(node: Node) -> None:
    delays = []
    for n in range(9):
        node.fail(f"r{n}")
        delays.append(node.delay_s())
        node.now += delays[-1]
        assert node.delay_s() == 0
    assert delays == [1, 2, 4, 8, 16, 32, LONGEST_S, LONGEST_S, LONGEST_S]
    assert node.starts().standing() == Standing(9, 1000.0, node.now, "no such file")


def test_a_clock_that_is_set_back_delays_the_next_try_by_no_more_than_usual(node: Node) -> None:
    for n in range(3):
        node.fail(f"r{n}")
    assert node.delay_s() == 4
    node.now -= 600
    assert node.delay_s() == 4
    node.now += 4
    assert node.delay_s() == 0


def test_where_nothing_can_be_written_models_start_all_the_same(node: Node) -> None:
    for name in ("r1", "r2"):
        (node.run_dir / FOLDER / "mlp@1" / f"{name}.{os.getpid()}").mkdir(parents=True)  # in the way, as a full disk would be
    start = node.starts()
    start.begin("r1", "code")
    start.ready()
    node.fail("r2")
    start.left()
    assert node.starts().standing() == Standing()


def test_nothing_has_failed_where_nothing_was_tried(node: Node) -> None:
    assert node.starts().standing() == Standing()
    node.starts().begin("r1", "code")
    assert node.starts().standing() == Standing()


def test_failures_of_other_code_do_not_hold_this_code_back(node: Node) -> None:
    node.fail("r1", code="old")
    assert node.starts().standing("new") == Standing()
    assert node.starts().standing().failures == 1
    node.now += 1
    node.starts().begin("r2", "new")
    assert node.starts().standing() == Standing()


def test_one_that_serves_ends_the_count(node: Node) -> None:
    node.fail("r1")
    node.now += 1
    serving = node.starts()
    serving.begin("r2", "code")
    node.now += 1
    serving.ready()
    node.now += QUICK_S / 2
    assert node.starts().standing().failures == 1
    node.now += QUICK_S
    assert node.starts().standing() == Standing()
    node.fail("r3")
    assert node.delay_s() == 1


def test_one_that_ends_as_it_should_leaves_nothing(node: Node) -> None:
    starts = node.starts()
    starts.begin("r1", "code")
    starts.ready()
    starts.left()
    assert list(node.run_dir.rglob("*.json")) == []
    node.fail("r2")
    node.starts().left()
    assert node.starts().standing().failures == 1


def test_old_failures_are_forgotten_and_few_are_kept(node: Node) -> None:
    for n in range(40):
        node.fail(f"r{n}")
        node.now += LONGEST_S
    standing = node.starts().standing()
    assert (standing.failures, standing.since, standing.next_try) == (KEPT, 1000.0, node.now)
    assert len(list(node.run_dir.rglob("*.json"))) == KEPT
    node.now += FORGET_S
    assert node.starts().standing() == Standing()
    assert list(node.run_dir.rglob("*.json")) == []


def test_a_change_starts_anew(node: Node) -> None:
    node.fail("r1")
    node.starts().forget()
    assert node.starts().standing() == Standing()


def test_a_torn_file_is_no_start(node: Node) -> None:
    node.fail("r1")
    file = next(node.run_dir.rglob("*.json"))
    for text in ("", "{", "[]", json.dumps({"name": "r1"}), "\0" * 40):
        file.write_text(text)
        assert node.starts().standing() == Standing()


@LINUX
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "ended with exit code 3"),
        (-11, "crashed (SIGSEGV)"),
        (-9, "was killed (SIGKILL: this machine was out of memory, or somebody killed it)"),
        (None, "ended"),
    ],
)
def test_a_process_that_died_while_it_loaded_counts_and_says_how(node: Node, code: int | None, words: str) -> None:
    pid = node.die("r1")
    if code is not None:
        node.note(pid, code)
    standing = node.starts().standing()
    assert (standing.failures, standing.since, node.delay_s()) == (1, 1000.0, 1.0)
    assert standing.reason == f"the replica's process {words} while it was loading the model"


@LINUX
def test_the_first_death_of_one_that_served_costs_no_delay_and_the_next_ones_do(node: Node) -> None:
    delays = []
    for n in range(3):
        node.die(f"r{n}", lived_s=0.5)
        delays.append(node.delay_s())
    assert delays == [0, 1, 2]
    assert "0.5 s after it was ready" in node.starts().standing().reason


@LINUX
def test_one_that_served_for_a_while_may_die_without_a_delay_and_ends_the_count(node: Node) -> None:
    node.fail("r1")
    node.now += 1
    node.die("r2", lived_s=QUICK_S + 1)
    assert node.starts().standing() == Standing()
    assert node.starts().standing() == Standing()
    assert list(node.run_dir.rglob("*.json")) == []


async def test_a_turn_comes_when_the_time_is_over(node: Node) -> None:
    node.fail("r1")
    ticks = iter(range(1, 100))
    slow = Starts(node.run_dir, "mlp/1", lambda: 1000.0 + next(ticks) / 4)
    await slow.turn("code")
    assert next(ticks) > 4


def test_one_that_ended_itself_counts_however_long_it_has_served(node: Node) -> None:
    def serves_and_ends(name: str, seconds: float, reason: str) -> None:
        start = node.starts()
        start.begin(name, "code")
        start.ready()
        node.now += seconds
        start.failed(reason)

    serves_and_ends("first", 500.0, "it hangs")
    assert node.starts().standing() == Standing(1, node.now, node.now, "it hangs")
    first = node.now
    serves_and_ends("second", QUICK_S / 2, "it hangs again")
    assert node.starts().standing() == Standing(2, first, node.now + 1.0, "it hangs again")
    third = node.starts()
    third.begin("third", "code")
    third.ready()
    node.now += 2 * QUICK_S
    assert node.starts().standing() == Standing()
