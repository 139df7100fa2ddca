"""wrk and h2load agree with the generator about a server of fixed latency, far below its limits. Skipped where they are not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.bench.fleet import generate
from serving.bench.load import Closed, Load
from tests.bench.drive import request
from tests.bench.servers import Answer, FakeServer

DELAY_S = 0.05


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_agrees_on_p50_within_5_percent() -> None:
    with FakeServer(lambda asked: Answer(delay_s=DELAY_S)) as server:
        recording = generate(server.address, "rest", [request()], Load(Closed(8), duration_s=1.5))
        command = ["wrk", "-t1", "-c8", "-d2s", "--latency", f"http://{server.address}/v2/models/m/infer"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"50%\s+([\d.]+)ms", output)
    assert found is not None, output
    assert recording.latency.percentile(50) / 1e6 == pytest.approx(float(found[1]), rel=0.05)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_h2load_agrees_on_p50_within_5_percent(tmp_path: Path) -> None:
    body, log = tmp_path / "body", tmp_path / "log"
    body.write_bytes(request("grpc").body)
    with FakeServer(lambda asked: Answer(delay_s=DELAY_S), "h2") as server:
        recording = generate(server.address, "grpc", [request("grpc")], Load(Closed(8), duration_s=1.5, streams=2))
        command = ["h2load", "-t1", "-c4", "-m2", "-n240", "-d", str(body), f"--log-file={log}", "-H", "content-type: application/grpc"]
        subprocess.run([*command, f"http://{server.address}{request('grpc').path}"], capture_output=True, check=True)
    micros = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    assert len(micros) == 240
    assert recording.latency.percentile(50) / 1e3 == pytest.approx(micros[120], rel=0.05)
