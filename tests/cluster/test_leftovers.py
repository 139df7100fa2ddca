"""leftovers: processes of an engine are found by their tag and ended."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys

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
        assert mine.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.communicate()
