"""Metrics over TLS, and over mutual TLS; the certificate that is renewed reaches HAProxy and survives its restart."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import httpx
import pytest

from tests.certificates import two_authorities

from .conftest import Edge, eventually


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_authorities(tmp_path_factory.mktemp("certs"))


def trust(certs: Path, ca: str, own: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certs / ca / "ca.pem"))
    if own:
        context.load_cert_chain(certs / own / "client.pem", certs / own / "client.key")
    return context


async def test_metrics_speak_tls_as_all_ports_do(edge: Edge, certs: Path) -> None:
    one = certs / "one"
    await edge.start(tls_certificate=str(one / "server.pem"), tls_key=str(one / "server.key"), tls_client_ca=str(one / "ca.pem"))
    url = f"https://localhost:{edge.config.metrics_port}/metrics"
    async with httpx.AsyncClient(verify=trust(certs, "one", "one")) as client:
        assert "serving_edge_up 1.0" in (await client.get(url)).text
    for stranger in (trust(certs, "one"), trust(certs, "one", "two")):
        async with httpx.AsyncClient(verify=stranger) as client:
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await client.get(url)
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(url.replace("https:", "http:"))


async def test_clients_of_a_new_ca_come_in_without_a_restart(edge: Edge, certs: Path, tmp_path: Path) -> None:
    names = {"certificate": "server.pem", "key": "server.key", "client_ca": "ca.pem"}
    for name in names.values():
        shutil.copy(certs / "one" / name, tmp_path / name)
    await edge.start(**{f"tls_{what}": str(tmp_path / name) for what, name in names.items()})
    await edge.gateway()
    await edge.up(1)

    async def comes_in(own: str) -> bool:
        async with httpx.AsyncClient(verify=trust(certs, "one", own)) as client:
            try:
                return (await client.get(f"https://localhost:{edge.config.http_port}/v2")).status_code == 200
            except (httpx.TransportError, ssl.SSLError):
                return False

    assert await comes_in("one")
    assert not await comes_in("two")
    shutil.copy(certs / "two" / "ca.pem", tmp_path / "ca.pem")
    async with asyncio.timeout(60):
        while not await comes_in("two"):
            await asyncio.sleep(0.05)
    assert not await comes_in("one")
    assert edge.keeper is not None
    assert edge.keeper.status()["haproxy"]["restarts"] == 0
    await eventually(lambda: Path(edge.config.path("edge-clients.pem")).read_bytes() == (certs / "two" / "ca.pem").read_bytes())
