"""The page at the metrics port, read by Prometheus itself: one page for gateways, replicas, controller, edge and HAProxy."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.control.samples import samples
from serving.control.status import Status, VersionStatus
from serving.edge.machine import GPU_NAMES
from serving.state import GatewayLimits

from .models import plan
from .rig import DataPath, free_port, wait_for

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "engine.json"
STATUS = Status(
    revision=3,
    settled=True,
    gateways_wanted=2,
    versions=(VersionStatus("pair", "1", "ready", "", 2, 3, True), VersionStatus("pair", "2", "failed", "boom", 0, 1, False, failures=4)),
)
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not installed (Debian: apt-get install prometheus)"
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPath]:
    """A node with HAProxy, two gateways, a replica and what reports like a controller; every kind of outcome has happened on it."""
    node = DataPath(edge="grpc")
    try:
        node.replica(plan(tmp_path_factory.mktemp("models"), node.gate), "r1")
        node.gateway("a")
        node.gateway("b")
        node.reporter("controller", "c", lambda: samples(STATUS))
        for first in (-1, 1):
            infer(node, "marked", [first, 0, 0])
        for _ in range(10):
            infer(node, "whole", [1, 2, 3])
        # both gateways let one of these in
        node.limits = GatewayLimits(client_requests_per_s=0.001, client_burst=1)
        node.tell()
        assert 429 in [infer(node, "told", [1, 2]).status_code for _ in range(3)]
        node.limits = GatewayLimits()
        node.tell()
        yield node
    finally:
        node.close()


def infer(node: DataPath, model: str, data: list[float]) -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(data)], "data": data}
    return httpx.post(f"http://{node.rest}/v2/models/{model}/infer", json={"inputs": [tensor]})


def page(node: DataPath, query: str = "") -> str:
    answer = httpx.get(f"http://127.0.0.1:{node.config.metrics_port}/metrics{query}")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.raise_for_status().text


def values(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples by name, then by labels. Not with prometheus_client's parser, which renames Triton's counters."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            told, _, number = line.rpartition(" ")
            name, _, rest = told.partition("{")
            found.setdefault(name, {})[tuple(sorted(re.findall(r'(\w+)="(.*?)"', rest)))] = float(number)
    return found


def labels(**told: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(told.items()))


def test_gateways_replicas_and_controller_are_on_one_page(node: DataPath) -> None:
    found = values(page(node))
    whole = {"model": "whole", "version": "1"}
    rest = {**whole, "protocol": "rest"}
    assert found["serving_requests_total"][labels(**rest, outcome="ok")] == 10
    assert found["serving_requests_total"][labels(model="marked", version="1", protocol="rest", outcome="model_failed")] == 1
    assert found["serving_request_duration_seconds_count"][labels(**rest, outcome="ok")] == 10
    assert found["serving_request_duration_seconds_bucket"][labels(**rest, outcome="ok", le="+Inf")] == 10
    assert found["serving_request_bytes_total"][labels(**whole)] == found["serving_response_bytes_total"][labels(**whole)] == 120
    assert found["serving_inflight_requests"][labels(**whole)] == 0
    assert found["serving_compute_duration_seconds_count"][labels(**whole)] == 10
    assert found["serving_queue_duration_seconds_sum"][labels(**whole)] > 0
    assert found["serving_batch_rows_bucket"][labels(**whole, le="1.0")] == 10
    assert found["serving_batch_rows_sum"][labels(**whole)] == 10
    assert found["serving_replica_requests_total"][labels(model="marked", version="1", outcome="failed")] == 1
    pair = found["serving_replicas"]
    assert [pair[labels(model="pair", version="1", state=s)] for s in ("running", "starting", "failed")] == [2, 1, 0]
    assert [pair[labels(model="pair", version="2", state=s)] for s in ("running", "starting", "failed")] == [0, 0, 1]
    kinds = {"gateway": 2, "replica": 1, "controller": 1, "edge": 1}
    assert found["serving_processes"] == {labels(process=kind): n for kind, n in kinds.items()}
    assert sum(n for key, n in found["serving_rejected_total"].items() if ("reason", "client") in key) >= 1
    assert found["serving_edge_gateways"][()] == 2
    assert found["serving_edge_haproxy_up"][labels(proxy="edge", server="FRONTEND")] == 1
    assert found["serving_edge_haproxy_received_bytes_total"]


def test_the_page_is_as_fresh_as_the_question(node: DataPath) -> None:
    key = labels(model="whole", version="1", protocol="rest", outcome="ok")
    for _ in range(5):
        before = values(page(node))["serving_requests_total"][key]
        infer(node, "whole", [1, 2, 3])
        assert values(page(node))["serving_requests_total"][key] == before + 1


def test_triton_names_tell_the_same(node: DataPath) -> None:
    found = values(page(node))
    marked = {"model": "marked", "version": "1"}
    assert found["nv_inference_request_success"][labels(**marked)] == 1
    assert found["nv_inference_request_failure"][labels(**marked, reason="BACKEND")] == 1
    assert found["nv_inference_count"][labels(**marked)] == found["nv_inference_exec_count"][labels(**marked)] == 1
    assert (
        found["nv_inference_request_duration_us"][labels(**marked)] > found["nv_inference_compute_infer_duration_us"][labels(**marked)] > 0
    )
    assert found["nv_inference_pending_request_count"][labels(**marked)] == 0
    assert 0 <= found["nv_cpu_utilization"][()] <= 1
    assert found["nv_cpu_memory_used_bytes"][()] < found["nv_cpu_memory_total_bytes"][()]
    assert not [name for name in values(page(node, "?names=serving")) if name.startswith("nv_")]


@needs_prometheus
def test_promtool_has_no_words_about_our_names_and_only_about_tritons_others(node: DataPath) -> None:
    ours = subprocess.run(["promtool", "check", "metrics"], input=page(node, "?names=serving"), text=True, capture_output=True)
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, "", "")
    whole = subprocess.run(["promtool", "check", "metrics"], input=page(node), text=True, capture_output=True)
    assert not [line for line in (whole.stdout + whole.stderr).splitlines() if not line.startswith("nv_")]


def test_the_dashboard_shows_only_what_is_on_the_page(node: DataPath) -> None:
    wanted = {name for expression in expressions() for name in re.findall(r"\b(?:serving|nv)_\w+", expression)}
    assert len(wanted) > 20
    assert wanted - values(page(node)).keys() - GPU_NAMES == set()


@needs_prometheus
def test_a_real_prometheus_reads_the_page_and_every_query_of_the_dashboard(node: DataPath, tmp_path: Path) -> None:
    with prometheus(node, tmp_path) as url, httpx.Client(base_url=url) as client:

        def ask(query: str) -> list[dict[str, Any]]:
            answer = client.get("/api/v1/query", params={"query": query}).json()
            assert answer["status"] == "success", (query, answer)
            found: list[dict[str, Any]] = answer["data"]["result"]
            return found

        wait_for(lambda: [r["value"][1] for r in ask("up")] == ["1"], 30)
        (read,) = ask('sum(serving_requests_total{outcome="ok"})')
        assert float(read["value"][1]) >= 11
        (triton,) = ask('nv_inference_count{model="whole"}')
        assert float(triton["value"][1]) >= 10
        for expression in expressions():
            ask(re.sub(r"\$(model|version)", ".*", expression).replace("$__rate_interval", "1m"))


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@contextmanager
def prometheus(node: DataPath, directory: Path) -> Iterator[str]:
    """Run Prometheus on the node's page, with nothing of its own left behind."""
    port = free_port()
    config = {"job_name": "serving", "scrape_interval": "1s", "static_configs": [{"targets": [f"127.0.0.1:{node.config.metrics_port}"]}]}
    (directory / "prometheus.yml").write_text(json.dumps({"scrape_configs": [config]}))
    options = [
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = (directory / "log").open("w")
    process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
    try:
        wait_for(lambda: _ready(f"http://127.0.0.1:{port}/-/ready"), 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        log.close()


def _ready(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
