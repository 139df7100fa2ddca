"""The configuration as text: what cannot be waited for in a test is read here, and HAProxy itself checks every form of it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from serving.edge import EdgeConfig
from serving.edge.process import find_haproxy
from serving.edge.render import CERTIFICATE_FILE, CONFIG_FILE, error_files, render

CONFIG = EdgeConfig("/run/x", 8000, 8001, 8002)


def lines(config: EdgeConfig) -> list[str]:
    return [line.strip() for line in render(config).splitlines()]


def test_time_limits_are_the_gateways_own() -> None:
    limits = dict(re.findall(r"^    timeout (\S+) (\S+)$", render(CONFIG), re.MULTILINE))
    for name in ("client", "server", "tunnel", "queue", "http-keep-alive"):
        assert limits[name] == "24h"


def test_nothing_but_a_failed_connect_is_tried_again() -> None:
    retries = [line for line in lines(CONFIG) if line.startswith("retry-on")]
    assert retries == ["retry-on conn-failure"]
    assert "option redispatch 1" in lines(CONFIG)


def test_streams_windows_and_buffers_are_large() -> None:
    tuned = dict(re.findall(r"^    tune\.(\S+) (\d+)$", render(CONFIG), re.MULTILINE))
    assert int(tuned["h2.fe.max-concurrent-streams"]) >= 2000
    assert int(tuned["h2.fe.initial-window-size"]) == 1 << 20
    assert int(tuned["bufsize"]) == 64 << 10
    assert "option http-no-delay" in lines(CONFIG)


def test_every_slot_is_listed_in_both_backends_and_checked_once() -> None:
    servers = [line for line in lines(replace(CONFIG, slots=3)) if line.startswith("server ")]
    assert servers == [
        *(f"server g{n} 'unix@/run/x/gateway-{n}.sock' check inter 250ms fall 1 rise 1" for n in range(3)),
        *(f"server g{n} 'unix@/run/x/gateway-{n}.sock' track rest/g{n}" for n in range(3)),
    ]


@pytest.mark.parametrize(
    ("config", "binds"),
    [
        (CONFIG, ["127.0.0.1:8001"]),
        (replace(CONFIG, edge="always"), ["127.0.0.1:8001", "127.0.0.1:8000"]),
        (replace(CONFIG, edge="always", grpc_port=0), ["127.0.0.1:8000"]),
        (replace(CONFIG, tls_certificate="/c.pem"), ["127.0.0.1:8001", "127.0.0.1:8000"]),
        (replace(CONFIG, host="::1"), ["[::1]:8001"]),
    ],
)
def test_only_the_ports_of_the_configuration_are_bound(config: EdgeConfig, binds: list[str]) -> None:
    bound = [line for line in lines(config) if line.startswith("bind ")]
    assert [line.split()[1] for line in bound] == binds
    assert all(("alpn h2,http/1.1" in line) == bool(config.tls_certificate) for line in bound)


@pytest.mark.parametrize("status", [400, 403, 408, 413, 500, 502, 503, 504])
def test_an_answer_of_the_edge_itself_has_the_form_of_its_protocol(status: int) -> None:
    files = error_files(CONFIG)
    rest_head, _, rest_body = files[f"rest-{status}.http"].partition("\r\n\r\n")
    assert rest_head.startswith(f"HTTP/1.1 {status} ")
    assert f"content-length: {len(rest_body)}" in rest_head
    assert rest_body.startswith('{"error": "')
    grpc_head, _, grpc_body = files[f"grpc-{status}.http"].partition("\r\n\r\n")
    assert grpc_head.startswith("HTTP/1.1 200 ")
    assert "content-type: application/grpc" in grpc_head
    assert re.search(r"grpc-status: ([1-9]\d?)\r\n", grpc_head)
    assert grpc_body == ""


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_that_is_not_there_is_unavailable_in_grpc(status: int) -> None:
    assert "grpc-status: 14\r\n" in error_files(CONFIG)[f"grpc-{status}.http"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"edge": "always"},
        {"host": "::1"},
        {"host": "localhost"},
        {"slots": 1},
        {"slots": 64},
        {"threads": 2},
        {"tls_certificate": "given"},
    ],
    ids=str,
)
def test_haproxy_accepts_the_configuration(run_dir: str, certificate: Path, changes: dict[str, object]) -> None:
    directory = Path(run_dir) / "it's a dir" if not changes else Path(run_dir)
    directory.mkdir(exist_ok=True)
    config = replace(CONFIG, run_dir=str(directory), **changes)  # type: ignore[arg-type]  # names are those of the fields
    for name, text in {**error_files(config), CONFIG_FILE: render(config)}.items():
        Path(config.path(name)).write_text(text, newline="")
    Path(config.path(CERTIFICATE_FILE)).write_bytes(certificate.read_bytes())
    binary = find_haproxy()
    assert binary is not None
    checked = subprocess.run([binary, "-c", "-f", config.path(CONFIG_FILE)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
