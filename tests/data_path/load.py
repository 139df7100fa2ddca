"""Load: clients of every kind that go on without pause and keep what fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .rig import DataPath
from .test_grpc import ALONE, request

HEADER = (
    b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}],'
    b'"parameters":{"binary_data_output":true}}'
)


def rest_request(number: int) -> bytes:
    """Return an infer request to `echo_fp32` whose answer ends with the same 16 bytes."""
    body = HEADER + np.full(4, number, np.float32).tobytes()
    head = f"POST /v2/models/echo_fp32/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: {len(HEADER)}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Load:
    """Runs until `stop`; `done` counts answers by kind, `failed` has what was not answered as it should.

    pause_s   of each client between two requests, so that the engine that is looked at has processors left
    """

    pause_s = 0.0

    def __init__(self, path: DataPath) -> None:
        self.path = path
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.ended_streams: list[tuple[int, str]] = []
        """(requests that had no answer, status) of each stream that a gateway ended."""
        self._stop = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, keep_alive: int = 4, new_connections: int = 4, unary: int = 4, streams: int = 4) -> Load:
        kinds: list[tuple[int, Callable[[int], Coroutine[Any, Any, None]]]] = [
            (keep_alive, self._keep_alive),
            (new_connections, self._new_connections),
            (unary, self._unary),
            (streams, self._streams),
        ]
        self._tasks = [asyncio.create_task(self._run(run(n), run.__name__)) for count, run in kinds for n in range(count)]
        return self

    async def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except asyncio.CancelledError:
            self._stop.set()  # the test has failed; a stream's thread hears it only so
            raise
        except Exception as error:
            self.failed.append(f"{name}: {error!r}")

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def more(self, count: int = 50) -> None:
        """Return when each kind that runs has had so many answers more."""
        goal = {kind: n + count for kind, n in self.done.items()}
        async with asyncio.timeout(60):
            while any(self.done[kind] < n for kind, n in goal.items()) and not self.failed:
                await asyncio.sleep(0.005)

    async def _keep_alive(self, seed: int) -> None:
        number = seed * 1_000_000
        while not self._stop.is_set():
            reader, writer = await asyncio.open_connection(*self.path.rest.split(":"))
            open_ = True
            while open_ and not self._stop.is_set():
                number += 1
                open_ = await self._ask(reader, writer, number, "keep-alive")
            writer.close()

    async def _new_connections(self, seed: int) -> None:
        number = seed * 1_000_000
        while not self._stop.is_set():
            number += 1
            reader, writer = await asyncio.open_connection(*self.path.rest.split(":"))
            await self._ask(reader, writer, number, "new connection")
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, kind: str) -> bool:
        writer.write(rest_request(number))
        async with asyncio.timeout(60):  # not wait_for: of 3.11, it can swallow a cancellation, and this loop would never end
            head = await reader.readuntil(b"\r\n\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.decode().split("\r\n")[1:])}
            body = await reader.readexactly(int(headers["content-length"]))
        if not head.startswith(b"HTTP/1.1 200") or not body.endswith(np.full(4, number, np.float32).tobytes()):
            self.failed.append(f"{kind}: {head!r} {body!r}")
        self.done[kind] += 1
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        return headers.get("connection") != "close"

    async def _unary(self, seed: int) -> None:
        number = seed * 1_000_000
        async with grpc.aio.insecure_channel(self.path.grpc, options=ALONE) as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            while not self._stop.is_set():
                number += 1
                answer = await infer(request("echo_fp32", np.full((1, 4), number)), timeout=10)
                if answer.raw_output_contents[0] != np.full(4, number, np.float32).tobytes():
                    self.failed.append("unary: the answer of another")
                self.done["unary"] += 1
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)

    async def _streams(self, seed: int) -> None:
        """Streams with up to 8 requests under way; when a gateway ends one the next one begins."""
        # not grpc.aio: it says INTERNAL by itself where a server ends a stream that is being written to
        await asyncio.to_thread(self._stream_on, seed * 1_000_000)

    def _stream_on(self, number: int) -> None:
        with grpc.insecure_channel(self.path.grpc, options=ALONE) as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
            while not self._stop.is_set():
                self._one_stream(infer, number)

    def _one_stream(self, infer: Any, number: int) -> None:
        window = threading.Semaphore(8)
        sent = got = 0

        def requests() -> Iterator[service_pb2.ModelInferRequest]:
            nonlocal sent
            while not self._stop.is_set():
                if window.acquire(timeout=0.1):
                    sent += 1
                    yield request("echo_fp32", np.full((1, 4), number + sent))

        try:
            for answer in infer(requests()):
                got += 1
                window.release()
                if answer.infer_response.raw_output_contents[0] != np.full(4, number + got, np.float32).tobytes():
                    self.failed.append(f"stream: {answer.error_message or 'the answer of another'}")
                self.done["stream"] += 1
                if self.pause_s:
                    time.sleep(self.pause_s)
        except grpc.RpcError as error:
            self.ended_streams.append((sent - got, error.code().name))
