"""leftovers: processes of an engine are found by their tag and ended."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.cluster import leftovers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_only_tagged_processes_are_found_and_killed() -> None:
    tag = secrets.token_hex(8)
    environments = [{**os.environ, "SERVING_ENGINE": tag}, {**os.environ, "SERVING_ENGINE": tag + "0"}]
    mine, other = (subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=e) for e in environments)
    try:
        # right after the fork a child still has its parent's environment
        while leftovers.processes("SERVING_ENGINE", tag) != [mine.pid]:
            assert mine.poll() is None
        assert leftovers.kill("SERVING_ENGINE", tag) == [mine.pid]
        assert mine.wait(60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.communicate()


def test_what_an_engine_left_that_was_killed_is_cleared(tmp_path: Path) -> None:
    tag = secrets.token_hex(8)
    run_dir = tmp_path / "serving-abc"
    run_dir.mkdir()
    (run_dir / "boot.json").write_text(f'{{"engine": "{tag}"}}')
    left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, "SERVING_ENGINE": tag})
    try:
        while leftovers.processes("SERVING_ENGINE", tag) != [left.pid]:
            assert left.poll() is None
        leftovers.clear(run_dir, patience_s=0.1)
        assert left.wait(60) == -signal.SIGKILL
        assert not run_dir.exists()
    finally:
        left.kill()
        left.communicate()


@pytest.mark.parametrize("boot", ["", '{"engine": "ab', "[]", '{"engine": 7}', '{"engine": ""}', "\0\0"])
def test_a_torn_boot_file_does_not_keep_a_run_directory(tmp_path: Path, boot: str) -> None:
    run_dir = tmp_path / "serving-abc"
    run_dir.mkdir()
    (run_dir / "boot.json").write_text(boot)
    leftovers.clear(run_dir, patience_s=0.0)
    assert not run_dir.exists()


def test_nothing_but_a_run_directory_is_ever_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "serving-file").touch()
    (tmp_path / "serving-link").symlink_to(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serving-relative").mkdir()
    for path in (
        "",
        "/",
        "/tmp",
        str(tmp_path / "other"),
        str(tmp_path / "serving-file"),
        str(tmp_path / "serving-link"),
        "serving-relative",
        "a\0b",
    ):
        leftovers.clear(Path(path), patience_s=0.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "serving-file", "serving-link", "serving-relative"]
