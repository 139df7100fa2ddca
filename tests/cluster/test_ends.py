"""The reaper: how its children ended, in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.cluster import ends

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "pidfd_open"), reason="a nursery is for Linux")
SCRIPT = """
import os, select, sys
from pathlib import Path
from serving.cluster.ends import Reaper

reaper = Reaper(Path(sys.argv[1]))
children = []
for how in sys.argv[2:]:
    pid = os.fork()
    if not pid:
        reaper.forget()
        if int(how) < 0:
            os.kill(os.getpid(), -int(how))
        os._exit(int(how))
    children.append(pid)
poll = select.poll()
poll.register(reaper)
noted = Path(sys.argv[1]) / "ends"
while True:
    poll.poll()
    reaper.reap()
    try:
        os.kill(children[-1], 0)
    except ProcessLookupError:
        if all(not os.path.exists(f"/proc/{pid}") for pid in children):
            break
print(*children)
"""


def test_children_that_do_not_end_well_leave_a_note(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "0", "7", "-9", "-6", "-15"], capture_output=True, text=True, timeout=120, check=True
    )
    words = [ends.cause(tmp_path, int(pid), after=0.0) for pid in done.stdout.split()]
    assert words == [
        "ended",
        "ended with exit code 7",
        "was killed (SIGKILL: this machine was out of memory, or somebody killed it)",
        "crashed (SIGABRT)",
        "was killed (SIGTERM)",
    ]


def test_a_note_from_before_is_of_another_process(tmp_path: Path) -> None:
    (tmp_path / "ends").mkdir()
    (tmp_path / "ends" / "77").write_text("3")
    written = ends.at(tmp_path, 77, after=0.0)
    assert ends.at(tmp_path, 77, after=written + 60) == 0.0
    assert ends.cause(tmp_path, 77, after=written + 60) == "ended"
