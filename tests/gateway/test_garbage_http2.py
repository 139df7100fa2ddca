"""Broken conversations of HTTP/2 by the thousand, on a real socket: what `test_garbage.py` does for HTTP/1.1.

Whatever comes: whole frames in a legal order, a status that blames the client or none at all, the end of the connection when the
client has ended. Never a hang, never an exception in the loop, and others notice nothing. `SERVING_FUZZ` as there.
"""

from __future__ import annotations

import asyncio
import gzip
import random

from serving.gateway import http2_frames as h2

from .alone import LoneGateway
from .http2_fakes import Answers, Client, data
from .test_garbage import AT_ONCE, ROUNDS, SERVICE, infer_message, mutate

ALLOWED = {"0", "1", "3", "4", "5", "8", "12"}


def opening(**settings: int) -> tuple[Client, bytes]:
    client = Client()
    return client, h2.PREFACE + client.hello(**settings)


def unary() -> bytes:
    client, begin = opening()
    infer = infer_message()[5:]
    calls = [
        client.call(1, infer, f"{SERVICE}ModelInfer"),
        client.call(3, infer, f"{SERVICE}ModelInfer", [("grpc-timeout", "5S")]),
        client.call(5, b"", f"{SERVICE}ServerMetadata"),
        client.call(7, b"\x0a\x01m", f"{SERVICE}ModelReady"),
        client.call(9, b"", "/grpc.health.v1.Health/Check"),
        client.call(11, infer, f"{SERVICE}ModelInfer"),
    ]
    return begin + b"".join(calls) + h2.frame(h2.PING, 0, 0, b"12345678")


def compressed() -> bytes:
    client, begin = opening()
    packed = gzip.compress(infer_message()[5:], mtime=0)
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    return begin + client.head(1, f"{SERVICE}ModelInfer", extra=[("grpc-encoding", "gzip")]) + data(1, body)


def streams() -> bytes:
    client, begin = opening()
    infer = infer_message()
    parts = [begin, client.head(1, f"{SERVICE}ModelStreamInfer"), client.head(3, f"{SERVICE}ModelStreamInfer")]
    parts += [data(1, infer[:20], ends=False), data(3, infer * 2, ends=False), data(1, infer[20:], ends=False), data(3, infer)]
    parts += [data(1, infer[:9], ends=False), h2.frame(h2.RST_STREAM, 0, 1, (8).to_bytes(4, "big"))]
    return b"".join([*parts, client.call(5, b"", "/grpc.health.v1.Health/Watch"), client.head(7, "/v2/models/m", flags=5)])


def small_windows() -> bytes:
    client, begin = opening(window=10)
    call = client.call(1, infer_message()[5:], f"{SERVICE}ModelInfer")
    return begin + call + b"".join(h2.window_update(1, 30) for _ in range(9)) + h2.frame(h2.SETTINGS, h2.ACK, 0)


def pieces() -> bytes:
    client, begin = opening()
    block = client.block(f"{SERVICE}ModelInfer")
    body = infer_message()
    head = h2.frame(h2.HEADERS, 0, 1, block[:9]) + h2.frame(h2.CONTINUATION, 0, 1, block[9:12])
    head += h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, block[12:])
    padded = h2.frame(h2.DATA, h2.PADDED, 1, b"\4" + body[:30] + bytes(4))
    return begin + head + padded + data(1, body[30:]) + client.call(3, b"", f"{SERVICE}ServerLive")


SAMPLES = [unary(), compressed(), streams(), small_windows(), pieces()]


def check(got: bytes) -> None:
    said = Answers(got)
    for trailers in said.trailers.values():
        if "grpc-status" in trailers:
            status, text = trailers["grpc-status"], trailers.get("grpc-message", "")
            assert status in ALLOWED or (status == "13" and "compressed flag" in text), (status, text)
        else:
            assert trailers[":status"] in ("200", "415")


async def throw(gateway: LoneGateway, conversation: bytes, dice: random.Random) -> bytes:
    """Send it in one piece or two, then end; return all that came."""
    reader, writer = await asyncio.open_connection(*gateway.tcp)
    try:
        half = len(conversation) // 2 if dice.random() < 0.3 else len(conversation)
        for piece in (conversation[:half], conversation[half:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(-1), 20)
    except OSError:  # it closes while we still send
        return b""
    finally:
        writer.close()


async def neighbour(gateway: LoneGateway, stop: asyncio.Event) -> int:
    """Ask for the same again and again, on a new connection each time; return how often."""
    expected: dict[int, bytes] = {}
    count = 0
    while not stop.is_set():
        said = Answers(await throw(gateway, SAMPLES[0], random.Random(1)))
        expected = expected or said.bodies
        assert said.bodies == expected
        assert {said.status(number) for number in expected} == {"0"}
        count += 1
        await asyncio.sleep(0.02)
    return count


async def test_mutated_conversations_hurt_nobody() -> None:
    gateway = LoneGateway()
    seeds = iter(range(ROUNDS // 2))

    async def thrower() -> None:
        for seed in seeds:
            dice = random.Random(f"http2 {seed}")
            conversation = dice.choice(SAMPLES)
            kept = len(h2.PREFACE) if dice.random() < 0.95 else 0
            broken = conversation[:kept] + mutate(conversation[kept:], dice)
            try:
                got = await throw(gateway, broken, dice)
                if broken.startswith(h2.PREFACE):
                    check(got)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {broken!r}") from error

    try:
        stop = asyncio.Event()
        other = asyncio.create_task(neighbour(gateway, stop))
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(thrower())
        stop.set()
        assert await other > 0
        host = gateway.host
        async with asyncio.timeout(30):
            while gateway.in_loop(lambda: len(host.connections)):
                await asyncio.sleep(0.01)
        held = gateway.in_loop(lambda: (host.arriving_bytes, host.service.calls.admission.inflight_requests, len(host.grpc2._streams)))
        assert held == (0, 0, 0)
        assert gateway.faults == []
    finally:
        gateway.close()


async def test_the_samples_are_answered() -> None:
    gateway = LoneGateway()
    try:
        for sample, answered in zip(SAMPLES, ({1, 3, 5, 7, 9, 11}, {1}, {3, 7}, {1}, {1, 3}), strict=True):
            said = Answers(await throw(gateway, sample, random.Random(1)))
            assert answered <= set(said.trailers)
            assert {said.status(n) for n in answered} <= {"0", "12"}  # 12: a path of REST
            assert said.goaways == []
        assert gateway.faults == []
    finally:
        gateway.close()
