"""Whether an engine whose Ray has ended starts again, and what it is told then."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.cluster.boot import Boot
from serving.cluster.launch import LIVED_S, QUICK_ENDS, next_life, open_files, run_dir
from serving.cluster.local_ray import ended_how
from serving.errors import Unavailable

BOOT = Boot("127.0.0.1", 8000, 8001, 8002, 8003, "/state", "/tmp/serving-x", "", "abc", 0.0, access="on", model_control="explicit")


def test_the_next_engine_is_the_same_with_a_tag_of_its_own() -> None:
    again = next_life(BOOT, LIVED_S)
    assert again is not None
    assert again.engine != BOOT.engine
    assert again == replace(BOOT, engine=again.engine, run_dir="", life=2)


def test_an_engine_that_was_never_ready_is_not_tried_again() -> None:
    assert next_life(BOOT, 0.0) is None


def test_short_lives_come_to_an_end_and_a_long_one_forgives_them() -> None:
    boot, lives = BOOT, 1
    while (again := next_life(boot, 1.0 if lives == 1 else 0.0)) is not None:
        boot, lives = again, lives + 1
    assert lives == 1 + QUICK_ENDS
    again = next_life(boot, LIVED_S)
    assert again is not None
    assert again.quick_ends == 0


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        yield Path(short)


def test_the_run_directory_lies_where_it_can_and_is_noted(tmp_path: Path, place: Path) -> None:
    made = run_dir(tmp_path, [Path("/gone"), place / "too/long/for/sockets", place])
    assert made.parent == place
    assert (tmp_path / "run").read_text() == str(made)
    assert made.stat().st_mode & 0o777 == 0o700


def test_where_it_cannot_be_noted_none_is_left(tmp_path: Path, place: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        run_dir(tmp_path / "gone", [place])
    assert list(place.iterdir()) == []


def test_where_there_is_no_place_it_is_said_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"/gone: No such file.*too long for sockets.*XDG_RUNTIME_DIR"):
        run_dir(tmp_path, [Path("/gone"), Path("/a/path/that/is/longer/than/it/may/be")])


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with exit code 0"), (-9, "was killed (SIGKILL)"), (-11, "was killed (SIGSEGV)"), (-99, "was killed (signal 99)")],
)
def test_how_a_process_ended_is_said(code: int, words: str) -> None:
    assert ended_how(code) == words


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        ((1024, 1024), (1024, 1024)),
        ((256, 4096), (4096, 4096)),
        ((1024, 1 << 20), (65536, 1 << 20)),
        ((1 << 20, 1 << 20), (1 << 20, 1 << 20)),
        ((1024, resource.RLIM_INFINITY), (65536, resource.RLIM_INFINITY)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
)
def test_an_engine_takes_as_many_open_files_as_it_may_and_needs(limits: tuple[int, int], taken: tuple[int, int]) -> None:
    assert open_files(limits) == taken


def test_too_few_open_files_are_refused_before_ray_waits_for_them() -> None:
    with pytest.raises(Unavailable, match=r"may open 64 files, an engine needs 256"):
        open_files((64, 64))
