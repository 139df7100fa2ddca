from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.process import Running, StartFailed, cpu_between, start

# A parent whose child leaves the session, drops its environment and outlives it; both say so, the child burns CPU first.
FAMILY = """
import os, signal, subprocess, sys, time
child = '''
import time
end = time.process_time() + 0.3
while time.process_time() < end: pass
print("child", flush=True)
time.sleep(600)
'''
subprocess.Popen([sys.executable, "-c", child], start_new_session=True, env={})
print("parent", flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def family(tmp_path: Path) -> Running:
    log = tmp_path / "log"
    return start(
        "family", [sys.executable, "-c", FAMILY], log, ready=lambda _: b"parent" in log.read_bytes() and b"child" in log.read_bytes()
    )


def test_members_hold_children_without_the_tag_and_stop_ends_them(family: Running) -> None:
    members = family.members()
    assert len(members) == 2
    assert os.getpid() not in members
    family.stop(5)
    assert not any(alive(pid) for pid in members)


def test_cpu_of_the_whole_tree_is_counted(family: Running) -> None:
    spent = cpu_between({}, family.cpu_s())
    family.stop(5)
    assert 0.3 <= spent < 5


def test_start_says_what_the_log_said(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"broken ended with 3\nno such luck"):
        start("broken", [sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], tmp_path / "log", ready=lambda _: False)


def test_start_gives_up_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    pids: list[int] = []
    with pytest.raises(StartFailed, match="was not ready"):
        start(
            "silent",
            [sys.executable, "-c", "import time; time.sleep(600)"],
            tmp_path / "log",
            ready=lambda running: pids.append(running.root) is not None,
            patience_s=0.5,
        )
    assert pids
    assert not alive(pids[0])
    assert time.monotonic() - began < 20


def test_a_server_that_was_given_is_read_but_not_stopped(family: Running) -> None:
    given = Running("given", family.root, "", "", "")
    try:
        assert given.members().keys() == family.members().keys()
        given.stop()
        assert alive(family.root)
    finally:
        family.stop(5)


def test_a_process_id_used_again_is_a_stranger() -> None:
    running = Running("old", 0, "", "", "", _known={os.getpid(): -1})
    assert running.members() == {}


def test_cpu_between_counts_newcomers_whole() -> None:
    assert cpu_between({1: 1.0, 2: 5.0}, {1: 1.5, 3: 0.25}) == 0.75
