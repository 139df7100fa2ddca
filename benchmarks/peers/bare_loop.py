"""The bare model in a loop, no server: what the hardware can do.

As a script it is one such loop: `bare_loop.py MODEL BATCH SECONDS` waits for a line on its input, so that several begin together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.process import ONE_THREAD
from benchmarks.workload import WORKLOADS

BATCHES = (1, 2, 4, 8, 16)


def images_per_s(model: str, batch: int, processes: int, seconds: float) -> float:
    """Rows a second of `processes` loops that run at the same time, one thread each."""
    argv = [sys.executable, "-m", "benchmarks.peers.bare_loop", model, str(batch), str(seconds)]
    loops = [
        subprocess.Popen(
            argv, env={**os.environ, **ONE_THREAD}, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(processes)
    ]
    try:
        for loop in loops:
            assert loop.stdout is not None
            if loop.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the bare loop of {model} did not start")
        for loop in loops:
            assert loop.stdin is not None
            loop.stdin.write(b"go\n")
            loop.stdin.flush()
        return sum(float(loop.communicate()[0]) for loop in loops)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def best_batch(model: str, processes: int, seconds: float) -> int:
    """The batch size with most rows a second, each tried for `seconds`."""
    return max(BATCHES, key=lambda batch: images_per_s(model, batch, processes, seconds))


def _loop(model: str, batch: int, seconds: float) -> float:
    torch.set_num_threads(1)
    network = WORKLOADS[model].cls().eval()
    x = torch.from_numpy(WORKLOADS[model].x).repeat_interleave(batch, 0)
    with torch.inference_mode():
        for _ in range(5):
            network(x)
        print("ready", flush=True)
        sys.stdin.readline()
        rows = 0
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < seconds:
            network(x)
            rows += batch
    return rows / (now - began)


if __name__ == "__main__":
    print(_loop(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
