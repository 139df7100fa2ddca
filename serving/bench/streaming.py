"""ModelStreamInfer: time to the first answer, between answers, and to the last. One stream per client, one request at a time on it.

Which answer is the last says its parameter `triton_final_response`; a server without it gives one answer per request. A decoupled
model is asked for an empty last answer, so that its end can be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic_ns
from typing import Any

import grpc
import grpc.aio

from serving.bench.answers import AnswerCheck
from serving.bench.encode import Work, infer_message
from serving.bench.figures import Latency, Streaming
from serving.bench.grpc_target import OPTIONS, SERVICE, credentials
from serving.bench.histogram import Histogram
from serving.bench.load import Load
from serving.bench.recording import Progress, Recording
from serving.bench.request import grpc_body
from serving.bench.target import ServerAddress
from serving.bench.turns import Stop, Turn, Turns, clients_of, send_in_loop
from serving.errors import ServingError
from serving.protocol.schema import ModelStreamInferResponse, parse

EMPTY_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"
MAX_STREAMS = 64


@dataclass(slots=True)
class Gaps:
    """Times within streamed answers, in ns: from the (intended) start to the first, and from each to the next."""

    first: Histogram
    between: Histogram
    answers: int = 0
    requests: int = 0

    def __add__(self, other: Gaps) -> Gaps:
        return Gaps(self.first + other.first, self.between + other.between, self.answers + other.answers, self.requests + other.requests)

    def figures(self) -> Streaming:
        return Streaming(
            first_ms=Latency.of(self.first),
            between_ms=Latency.of(self.between),
            answers_per_request=self.answers / self.requests if self.requests else 0.0,
        )


def run_streams(
    address: ServerAddress, works: Sequence[Work], load: Load, progress: Callable[[Progress], None], stop: Stop
) -> tuple[Recording, Gaps]:
    """Send and return what was measured: latencies to the last answer, and the times within."""
    return asyncio.run(_run(address, works, load, progress, stop))


async def _run(
    address: ServerAddress, works: Sequence[Work], load: Load, progress: Callable[[Progress], None], stop: Stop
) -> tuple[Recording, Gaps]:
    turns = Turns(load, works, progress, stop)
    gaps = Gaps(Histogram(), Histogram())
    messages = [infer_message(w.order, w.sample, {EMPTY_FINAL: True} if w.order.info.decoupled else None) for w in works]
    streams = [_Stream(address, works, messages, turns, gaps) for _ in range(clients_of(load, MAX_STREAMS))]
    try:
        await send_in_loop(turns, [stream.send for stream in streams], stop)
    finally:
        for stream in streams:
            await stream.close()
    recording = turns.recording()
    recording.connections = len(streams)
    return recording, gaps


class _Stream:
    """One stream on a connection of its own; after a failure the next request opens another."""

    def __init__(self, address: ServerAddress, works: Sequence[Work], messages: Sequence[bytes], turns: Turns, gaps: Gaps) -> None:
        if address.secure:
            self._channel = grpc.aio.secure_channel(address.netloc, credentials(address), options=OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address.netloc, options=OPTIONS)
        self._open = self._channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        self._works = works
        self._messages = messages
        self._turns = turns
        self._gaps = gaps
        self._call: Any = None

    async def send(self, turn: Turn) -> tuple[str, str]:
        """Send one request and read its answers; see `turns.Send`."""
        work = self._works[turn.number]
        try:
            if self._call is None:
                self._call = self._open(metadata=work.order.headers)
            await self._call.write(self._messages[turn.number])
            return await self._read(work, turn)
        except grpc.RpcError as error:
            self._call = None
            return f"grpc {error.code().name}", str(error.details())
        except BaseException:
            self._drop()
            raise

    async def _read(self, work: Work, turn: Turn) -> tuple[str, str]:
        times: list[int] = []
        wrong = ""
        while True:
            raw = await self._call.read()
            now = monotonic_ns()
            if raw is grpc.aio.EOF:
                call, self._call = self._call, None
                return f"grpc {(await call.code()).name}", str(await call.details() or "the stream ended")
            try:
                answer = parse(ModelStreamInferResponse, raw)
            except ServingError as error:
                self._drop()
                return "bad answer", error.message
            if answer.error_message:
                return "error in the stream", answer.error_message
            inner = answer.infer_response
            final = inner.parameters[FINAL].bool_param if FINAL in inner.parameters else not work.order.info.decoupled
            if inner.outputs:
                times.append(now)
                if turn.check and not wrong:
                    wrong = AnswerCheck("grpc", work.expected)(grpc_body(inner.SerializeToString())) or ""
            if final:
                break
        if wrong:
            return "wrong body", wrong
        if self._turns.measures(turn):
            self._note(turn.intended_ns, times)
        return "", ""

    def _note(self, intended_ns: int, times: list[int]) -> None:
        gaps = self._gaps
        gaps.requests += 1
        gaps.answers += len(times)
        if times:
            gaps.first.record(times[0] - intended_ns)
            gaps.between.record_many([after - before for before, after in pairwise(times)])

    def _drop(self) -> None:
        """Give the stream up: answers to a request that timed out must not be taken for the next one's."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def close(self) -> None:
        self._drop()
        await self._channel.close()
