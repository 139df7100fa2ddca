"""What `serving up` says of a state directory that cannot be used, before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.peers.port import free_ports
from tests.cluster.running import run, write_model


def is_a_file(state: Path) -> None:
    state.write_text("")


def lock_is_in_the_way(state: Path) -> None:
    (state / "lock").mkdir(parents=True)


def note_cannot_be_written(state: Path) -> None:
    (state / "run.draft").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(is_a_file, "File exists"), (lock_is_in_the_way, "Is a directory"), (note_cannot_be_written, "Is a directory")],
)
def test_a_state_directory_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    state = tmp_path / "state"
    spoil(state)
    ports = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics", "control"), free_ports(4), strict=True)]
    done = run("up", str(write_model(tmp_path, "echo")), f"--state-dir={state}", *ports)
    assert (done.returncode, done.stderr) == (1, f"serving: the state directory {state} cannot be used: {why}\n")
