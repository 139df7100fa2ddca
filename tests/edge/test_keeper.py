"""The keeper as its users see it: start, health, status, close, and clear words when it cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest

from serving.edge import EdgeConfig, EdgeKeeper, EdgeMode
from serving.errors import InvalidArgument, Unavailable

from .conftest import Edge, eventually


@pytest.mark.parametrize(("port", "flag"), [("http_port", "--http-port"), ("grpc_port", "--grpc-port"), ("metrics_port", "--metrics-port")])
def test_a_taken_port_is_a_clear_error_and_leaves_nothing_open(config: EdgeConfig, port: str, flag: str) -> None:
    number = getattr(config, port)
    with socket.socket() as other:
        other.bind(("127.0.0.1", number))
        other.listen()
        with pytest.raises(Unavailable, match=f"port {number} on 127.0.0.1 .* in use, by .* \\(pid {os.getpid()}\\).* {flag}"):
            EdgeKeeper(config).start()
    # all of it can be opened again at once
    keeper = EdgeKeeper(config)
    keeper.start()
    keeper.close(0.0)


def test_two_keepers_do_not_share_a_directory(config: EdgeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.edge.keeper._LOCK_WAIT_S", 0.1)
    first = EdgeKeeper(config)
    first.start()
    with pytest.raises(Unavailable, match="another edge keeper runs in"):
        EdgeKeeper(config).start()
    first.healthy()
    first.close(0.0)


def test_a_directory_too_deep_for_a_socket_is_refused(config: EdgeConfig) -> None:
    with pytest.raises(InvalidArgument, match="too long for a Unix socket"):
        EdgeKeeper(replace(config, run_dir="/tmp/" + "x" * 100)).start()


def test_closing_twice_or_before_the_start_is_harmless(config: EdgeConfig) -> None:
    keeper = EdgeKeeper(config)
    keeper.close()
    keeper.start()
    keeper.close(1.0)
    keeper.close(1.0)
    assert not [path.name for path in Path(config.run_dir).glob("*.sock")]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_without_haproxy_both_ports_are_served(config: EdgeConfig, monkeypatch: pytest.MonkeyPatch, mode: EdgeMode) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    keeper = EdgeKeeper(replace(config, edge=mode))
    keeper.start()
    status = keeper.status()
    keeper.close()
    assert (status["http_port"], status["grpc_port"], status["haproxy"]) == (config.http_port, config.grpc_port, None)


@pytest.mark.parametrize("changes", [{"edge": "always"}, {"edge": "grpc"}, {"edge": "auto", "tls_certificate": "/c.pem"}], ids=str)
def test_what_cannot_be_had_without_haproxy_is_an_error(
    config: EdgeConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    with pytest.raises(Unavailable, match="need HAProxy"):
        EdgeKeeper(replace(config, **changes)).start()  # type: ignore[arg-type]  # names are those of the fields


async def test_health_turns_bad_when_haproxy_stands_still(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    await edge.start()
    assert edge.keeper is not None
    await asyncio.to_thread(edge.keeper.healthy)
    pid = edge.keeper.status()["haproxy"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as hasty:
        hasty.setattr("serving.edge.process._ADMIN_TIMEOUT_S", 0.3)
        hasty.setattr("serving.edge.keeper._SECOND_LOOK_S", 0.1)
        with pytest.raises(Unavailable, match="HAProxy does not answer"):
            await asyncio.to_thread(edge.keeper.healthy)
    os.kill(pid, signal.SIGCONT)
    await asyncio.to_thread(edge.keeper.healthy)


async def test_status_names_ports_gateways_and_what_they_accept_on(edge: Edge) -> None:
    await edge.start(slots=2)
    gateway = await edge.gateway("a")
    gateway.claim.draining()
    assert edge.keeper is not None
    keeper = edge.keeper
    await eventually(lambda: keeper.status()["gateways"][0]["draining"])
    status = keeper.status()
    assert status["gateways"] == [{"slot": 0, "name": "a", "pid": os.getpid(), "draining": True, "listeners": [0, 1]}]
    assert status["haproxy"]["restarts"] == 0
    assert (status["host"], status["grpc_port"]) == ("127.0.0.1", edge.config.grpc_port)


async def test_with_edge_always_rest_goes_through_haproxy(edge: Edge) -> None:
    await edge.start(edge="always")
    gateway = await edge.gateway()
    assert list(gateway.servers) == [-1]
    await edge.up(1)
    async with httpx.AsyncClient() as client:
        for port in (edge.rest, edge.edge):
            assert (await client.post(port + "/v2", content=b"abc")).json()["client"] == ["127.0.0.1"]


async def test_with_tls_both_ports_speak_it_and_pick_the_protocol_by_alpn(edge: Edge, certificate: Path) -> None:
    await edge.start(tls_certificate=str(certificate))
    await edge.gateway()
    await edge.up(1)
    trusted = ssl.create_default_context(cafile=str(certificate))
    async with httpx.AsyncClient(verify=trusted) as client:
        for port in (edge.config.http_port, edge.config.grpc_port):
            assert (await client.get(f"https://localhost:{port}/v2")).json()["name"] == "here"
    credentials = grpc.ssl_channel_credentials(await asyncio.to_thread(certificate.read_bytes))
    async with grpc.aio.secure_channel(f"localhost:{edge.config.grpc_port}", credentials) as channel:
        assert await channel.unary_unary("/t.T/Echo")(b"secret", timeout=60) == b"secret"
    assert await asyncio.to_thread(lambda: Path(edge.config.path("edge.pem")).stat().st_mode & 0o777) == 0o600


async def test_with_a_client_ca_a_client_without_certificate_is_turned_away(edge: Edge, certificate: Path) -> None:
    await edge.start(tls_certificate=str(certificate), tls_client_ca=str(certificate))
    await edge.gateway()
    await edge.up(1)
    trusted = ssl.create_default_context(cafile=str(certificate))
    async with httpx.AsyncClient(verify=trusted) as client:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await client.get(f"https://localhost:{edge.config.http_port}/v2")
    trusted.load_cert_chain(certificate)
    async with httpx.AsyncClient(verify=trusted) as client:
        assert (await client.get(f"https://localhost:{edge.config.http_port}/v2")).json()["name"] == "here"
