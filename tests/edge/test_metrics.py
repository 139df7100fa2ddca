"""The page that Prometheus reads stands what the network may bring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from serving.edge.collection import Collection
from serving.edge.ledger import Ledger
from serving.edge.metrics import MetricsPage
from serving.edge.page import Page
from serving.errors import Unavailable

from .conftest import free_port

STATUS = {"gateways": [{"draining": True}, {"draining": False}], "haproxy": {"pid": 1, "restarts": 2}}


async def no_haproxy() -> str:
    return ""


@pytest.fixture
async def port() -> AsyncIterator[int]:
    ledger = Ledger()
    ledger.record("1", [["serving_requests_total", "counter", {"model": "m"}, 12]])
    page, port = MetricsPage(Page(ledger, (Collection(), Collection()), lambda: STATUS, no_haproxy), lambda: STATUS), free_port()
    await page.start("127.0.0.1", port)
    yield port
    await page.close()


async def raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read(-1)
    writer.close()
    return answer


async def test_the_page_is_served(port: int) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics?name=x")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert 'serving_requests_total{model="m"} 12.0' in answer.text
        assert "serving_edge_gateways_draining 1.0" in answer.text
        assert "serving_edge_restarts_total 2.0" in answer.text
        assert (await client.get(f"http://127.0.0.1:{port}/status")).json() == STATUS
        head = await client.head(f"http://127.0.0.1:{port}/metrics")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 404 "),
        (b"POST /metrics HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", b"HTTP/1.1 405 "),
        (b"hello\r\n\r\n", b"HTTP/1.1 400 "),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"x" * 40_000, b""),
        (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200) + b"\r\n\r\n", b"HTTP/1.1 400 "),
    ],
    ids=["unknown path", "post", "no http", "http/2", "head without end", "tls"],
)
async def test_garbage_gets_its_answer_and_hurts_nobody(port: int, data: bytes, start: bytes) -> None:
    try:
        answer = await raw(port, data)
    except ConnectionResetError:
        answer = b""
    assert answer.startswith(start)
    assert (await raw(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_silent_clients_do_not_keep_others_out(port: int) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(70)]
    assert (await raw(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
    for _, writer in silent:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(60):
        while not (await raw(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 "):
            await asyncio.sleep(0.01)


async def test_a_taken_port_is_told(port: int) -> None:
    with pytest.raises(Unavailable, match="--metrics-port"):
        await MetricsPage(Ledger(), lambda: STATUS).start("127.0.0.1", port)
