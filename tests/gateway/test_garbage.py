"""Broken requests by the thousand, on the REST port and on the edge's socket.

Whatever comes: a valid answer, or a valid error that blames the client, or the end of the connection. Never a hang, never an
exception in the loop, and others notice nothing. `SERVING_FUZZ=100000` for a long run; a failure names the seed of its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tritonclient.grpc import service_pb2

from serving.gateway.http2_frames import FRAME, GOAWAY, PREFACE

from .alone import LoneGateway

ROUNDS = int(os.environ.get("SERVING_FUZZ", "3000"))
AT_ONCE = 24
SILENCE_S = 0.05
"""A connection on which nothing has come for this long waits for the rest of its request."""

JSON_BODY = b'{"id":"7","inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2.5,-3e7]}],"outputs":[{"name":"y"}]}'
BINARY_HEADER = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","parameters":{"binary_data_size":16}}],"parameters":{"timeout":5}}'


def post(path: str, body: bytes, *lines: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *lines, "", "")).encode() + body


def chunked(path: str, body: bytes, size: int, *lines: str) -> bytes:
    head = "\r\n".join((f"POST {path} HTTP/1.1", "Host: h", "Transfer-Encoding: chunked", *lines, "", "")).encode()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def infer_message() -> bytes:
    request = service_pb2.ModelInferRequest(model_name="m", id="7")
    request.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    request.parameters["p"].string_param = "text"
    request.raw_input_contents.append(bytes(range(16)))
    return message(request.SerializeToString())


INFER = "/v2/models/m/infer"
REST = [
    post(INFER, JSON_BODY),
    post(INFER, BINARY_HEADER + bytes(16), f"Inference-Header-Content-Length: {len(BINARY_HEADER)}"),
    post("/v2/models/m/versions/1/infer", JSON_BODY, "Accept-Encoding: gzip", "Expect: 100-continue"),
    chunked(INFER, JSON_BODY, 20),
    chunked(INFER, JSON_BODY, 1000, "Connection: close"),
    post(INFER, JSON_BODY) * 3,
    b"GET /v2/models/m HTTP/1.1\r\nHost: h\r\n\r\nGET /v2/health/ready HTTP/1.1\r\n\r\n",
    b"HEAD /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]
GRPC = "content-type: application/grpc"
SERVICE = "/inference.GRPCInferenceService/"
EDGE = [
    post(f"{SERVICE}ModelInfer", infer_message(), GRPC, "te: trailers"),
    chunked(f"{SERVICE}ModelInfer", infer_message(), 1000, GRPC, "grpc-timeout: 5S"),
    chunked(f"{SERVICE}ModelInfer", infer_message(), 9, GRPC, "grpc-encoding: gzip"),
    chunked(f"{SERVICE}ModelStreamInfer", infer_message() * 3, 30, GRPC),
    chunked(f"{SERVICE}ModelStreamInfer", infer_message() * 3, 1000, GRPC, "triton_grpc_error: true"),
    post(f"{SERVICE}ServerMetadata", message(b""), GRPC) + post(f"{SERVICE}ModelReady", message(b"\x0a\x01m"), GRPC),
    post("/grpc.health.v1.Health/Check", message(b""), GRPC),
    post(INFER, JSON_BODY),
    b"GET /edge/health HTTP/1.1\r\nhost: edge\r\n\r\n",
]
WORDS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\xff\xfe", b" ", b":", b"0\r\n\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Upgrade: h2c\r\n",
    b"Content-Encoding: gzip\r\n", b"Inference-Header-Content-Length: 9999999999\r\n", b"grpc-timeout: 1n\r\n", b"grpc-timeout: xx\r\n",
    b"99999999999999999999", b"-1", b"1e9", b"[[[[[[[[", b'{"', b"NaN", b"null", b'"BYTES"', b"\x3a\xff\xff\xff\xff\x0f", b"%00", b"%ff",
    b"../", b"HTTP/1.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]  # fmt: skip


def mutate(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 6))):
        at = dice.randrange(len(out) + 1)
        span = dice.choice((1, 2, 4, 16, 60))
        match dice.randrange(8):
            case 0:
                if at < len(out):
                    out[at] ^= 1 << dice.randrange(8)
            case 1:
                out[at : at + span] = b""
            case 2:
                out[at:at] = out[at : at + span] * dice.choice((1, 2, 50))
            case 3:
                out[at:at] = dice.randbytes(span)
            case 4:
                out[at : at + span] = dice.choice(WORDS)
            case 5:
                out[at:at] = dice.choice(WORDS)
            case 6:
                del out[at:]
            case 7:
                numbers = [i for i, byte in enumerate(out) if 48 <= byte <= 57]
                if numbers:
                    out[dice.choice(numbers)] = dice.choice(b"0123456789-")
    return bytes(out)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Cut what came into whole frames of HTTP/2: kind and payload; raises where it is none."""
    found = []
    at = 0
    while at < len(data):
        high, low, kind, _, _ = FRAME.unpack_from(data, at)
        stop = at + FRAME.size + (high << 16 | low)
        assert stop <= len(data)
        found.append((kind, data[at + FRAME.size : stop]))
        at = stop
    return found


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str]


def answers(data: bytes) -> Iterator[Answer]:
    """Cut what came into whole answers; raises where it is none."""
    at = 0
    while at < len(data):
        end = data.index(b"\r\n\r\n", at)
        first, *lines = data[at:end].decode("ascii").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = fields(lines)
        at = end + 4
        if status == "100":
            continue
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                end = data.index(b"\r\n", at)
                size = int(data[at:end], 16)
                at = end + 2
                if not size:
                    break
                body += data[at : at + size]
                assert data[at + size : at + size + 2] == b"\r\n"
                at += size + 2
            end = data.index(b"\r\n\r\n", at - 2)
            trailers = fields(data[at:end].decode("ascii").split("\r\n")) if end > at else {}
            at = end + 4
        else:
            # an answer to HEAD has a length and no body; a mutation may have made any request one
            size = int(headers["content-length"])
            body = data[at : at + size]
            if len(body) < size or body.startswith(b"HTTP/1.1"):
                assert not body or body.startswith(b"HTTP/1.1")
                body = b""
            at += len(body)
            trailers = {}
        yield Answer(int(status), headers, body, trailers)


def fields(lines: list[str]) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in lines if line]
    return {name.lower(): value for name, value in pairs}


def check(answer: Answer) -> None:
    """An answer is good, or an error in the words of its protocol that blames the client."""
    if answer.headers.get("content-type") == "application/grpc":
        assert answer.status == 200
        status = answer.headers.get("grpc-status") or answer.trailers["grpc-status"]
        text = answer.headers.get("grpc-message") or answer.trailers.get("grpc-message", "")
        # gRPC's own specification wants INTERNAL for a compressed message in a call that names no compression
        assert status in ("0", "1", "3", "4", "5", "8", "12") or (status == "13" and "compressed flag" in text), (status, text)
    elif answer.status >= 400:
        assert answer.status in (400, 404, 405, 408, 413, 415, 431, 501, 503, 504)
        if answer.body:
            error = json.loads(answer.body)
            assert list(error) == ["error"]
            assert isinstance(error["error"], str)
    else:
        assert answer.status == 200


async def throw(gateway: LoneGateway, data: bytes, dice: random.Random, edge: bool) -> bytes:
    """Send it, in one piece or several; return what came until nothing more came."""
    if edge:
        reader, writer = await asyncio.open_unix_connection(gateway.unix)
    else:
        reader, writer = await asyncio.open_connection(*gateway.tcp)
    got = b""
    try:
        for piece in [data] if dice.random() < 0.7 else [data[: len(data) // 2], data[len(data) // 2 :]]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if not edge:
            writer.write_eof()
        while True:
            try:
                part = await asyncio.wait_for(reader.read(1 << 16), SILENCE_S if edge else 60)
            except TimeoutError:
                assert edge, "it neither answers nor closes"
                writer.write_eof()
                # end of file on the edge's socket: the end of everything on this connection
                return got + await asyncio.wait_for(reader.read(-1), 60)
            if not part:
                return got
            got += part
    except OSError:  # it closes while we still send
        return got
    finally:
        writer.close()


def whole_answers(got: bytes) -> bytes:
    """Drop the answer that a stream had begun when its client went."""
    last = got.rfind(b"HTTP/1.1 200 OK\r\n")
    if last >= 0 and b"transfer-encoding: chunked" in got[last:] and not got.endswith(b"\r\n\r\n"):
        return got[:last]
    if last >= 0 and b"transfer-encoding: chunked" in got[last:] and b"grpc-status" not in got[last:]:
        return got[:last]
    return got


async def neighbour(gateway: LoneGateway, data: bytes, edge: bool, stop: asyncio.Event) -> int:
    """Ask for the same again and again on one connection; return how often. Fails at the first other answer."""
    reader, writer = await (asyncio.open_unix_connection(gateway.unix) if edge else asyncio.open_connection(*gateway.tcp))
    count = 0
    expected = b""
    while not stop.is_set():
        writer.write(data)
        got = await asyncio.wait_for(reader.read(1 << 16), 60)
        while edge and b"grpc-status" not in got:
            got += await asyncio.wait_for(reader.read(1 << 16), 60)
        expected = expected or got
        assert got == expected
        count += 1
        await asyncio.sleep(0.005)
    writer.close()
    return count


async def storm(gateway: LoneGateway, samples: list[bytes], edge: bool) -> None:
    seeds = iter(range(ROUNDS // 2))

    async def thrower() -> None:
        for seed in seeds:
            dice = random.Random(f"{edge} {seed}")
            data = mutate(dice.choice(samples), dice)
            try:
                got = await throw(gateway, data, dice, edge)
                if data.startswith(PREFACE) and not edge:
                    # what follows the preface is no HTTP/2; a head of a frame must have come to tell
                    assert any(kind == GOAWAY for kind, _ in frames(got)) or len(data) < len(PREFACE) + FRAME.size
                    continue
                for answer in answers(whole_answers(got)):
                    check(answer)
            except Exception as error:
                raise AssertionError(f"seed {seed}, edge {edge}: {data!r}") from error

    stop = asyncio.Event()
    others = [asyncio.create_task(neighbour(gateway, samples[0], edge, stop)) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(thrower())
    stop.set()
    assert min(await asyncio.gather(*others)) > 10


@pytest.mark.parametrize("edge", [False, True], ids=["rest port", "socket of the edge"])
async def test_garbage_gets_an_answer_and_hurts_nobody(edge: bool) -> None:
    gateway = LoneGateway()
    try:
        await storm(gateway, EDGE if edge else REST, edge)
        host = gateway.host
        async with asyncio.timeout(60):
            while gateway.in_loop(lambda: len(host.connections)):
                await asyncio.sleep(0.01)
        assert gateway.in_loop(lambda: (host.arriving_bytes, host.service.calls.admission.inflight_requests, len(host.grpc._streams))) == (
            0,
            0,
            0,
        )
        assert gateway.faults == []
    finally:
        gateway.close()


async def test_the_preface_of_http2_counts_only_where_a_connection_begins() -> None:
    gateway = LoneGateway()
    try:
        first = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
        for cut in (len(first), len(first) + 12, len(first) + 20):
            reader, writer = await asyncio.open_connection(*gateway.tcp)
            writer.write((first + PREFACE)[:cut])
            got = await asyncio.wait_for(reader.readuntil(b'{"live":true}'), 10)
            writer.write((first + PREFACE)[cut:])
            writer.write_eof()
            got += await asyncio.wait_for(reader.read(-1), 10)
            assert [answer.status for answer in answers(got)] == [200, 400], cut
            writer.close()
        assert gateway.faults == []
    finally:
        gateway.close()


@pytest.mark.parametrize("edge", [False, True], ids=["rest port", "socket of the edge"])
async def test_the_samples_are_answered(edge: bool) -> None:
    gateway = LoneGateway()
    try:
        for data in EDGE if edge else REST:
            got = list(answers(await throw(gateway, data, random.Random(0), edge)))
            assert got
            assert {a.status for a in got} == {200}
            for answer in got:
                check(answer)
        assert gateway.faults == []
    finally:
        gateway.close()
