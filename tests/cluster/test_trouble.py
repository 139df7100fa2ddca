"""What replicas say of calls that went wrong, and for how long it is told. Time is a number."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cluster.trouble import FORGET_S, Trouble, told


class Node:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.now = 1000.0

    def replica(self, name: str, key: str = "m/1") -> Trouble:
        return Trouble(self.run_dir, key, name, lambda: self.now)

    def told(self, key: str = "m/1") -> str:
        return told(self.run_dir, key, lambda: self.now)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_where_all_is_well_nothing_is_said_and_nothing_written(node: Node) -> None:
    node.replica("a").tell(0, "", 0)
    assert node.told() == ""
    assert list(node.run_dir.iterdir()) == []


def test_replicas_add_up_and_the_last_word_counts(node: Node) -> None:
    node.replica("a").tell(1, "ValueError: one", 0)
    assert node.told() == "the model failed 1 request since its start, last: ValueError: one"
    node.now += 1
    node.replica("b").tell(2, "ValueError: two", 3)
    assert node.told() == "the model failed 3 requests since its start, last: ValueError: two; 3 rows of its answers had NaN"
    assert node.told("m/2") == ""


def test_it_is_forgotten_some_time_after_the_last(node: Node) -> None:
    replica = node.replica("a")
    replica.tell(0, "", 1)
    node.now += FORGET_S
    replica.tell(0, "", 1)  # nothing new
    assert node.told() == "1 row of its answers had NaN"
    node.now += 1
    assert node.told() == ""
    replica.tell(0, "", 2)
    assert node.told() == "2 rows of its answers had NaN"


def test_a_replica_that_ends_takes_its_words_along(node: Node) -> None:
    replica = node.replica("a")
    replica.tell(1, "x", 0)
    replica.over()
    replica.over()
    assert node.told() == ""


def test_what_cannot_be_read_is_passed_over(node: Node) -> None:
    node.replica("a").tell(1, "x", 0)
    (node.run_dir / "trouble" / "m@1" / "b.json").write_text('{"at"')
    assert node.told().startswith("the model failed 1 request")
