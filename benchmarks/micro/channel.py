"""What one prediction costs the gateway between protocol and socket, and where it goes.

    .venv/bin/python benchmarks/micro/channel.py [--calls 32] [--rounds 3000]

The channel writes into a transport that keeps nothing, and is fed RESPONSES frames made beforehand: all that is timed is
ours. Median of the turns, best of five runs; µs per call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import uvloop

from serving.errors import Code
from serving.gateway.call import Call
from serving.gateway.channel import SocketChannel
from serving.gateway.layouts import LayoutCache
from serving.gateway.service import Service
from serving.gateway.tally import Cell, Tally
from serving.inference import InferRequest, InferResponse, Layout, TensorLayout
from serving.routing import Route, RouteTable
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec
from serving.wire import frame

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (64,)),), (TensorSpec("y", DType.FP32, (10,)),), 64)
ASKED = Layout((TensorLayout.fixed("x", DType.FP32, (1, 64)),))
ANSWER = Layout((TensorLayout.fixed("y", DType.FP32, (1, 10)),))


class Sink:
    """A transport that takes everything and keeps nothing."""

    def write(self, data: bytes) -> None:
        pass

    def writelines(self, data: list[bytes]) -> None:
        pass

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def abort(self) -> None:
        pass


class Silent:
    """An owner that does nothing with its answer."""

    __slots__ = ()

    def answer(self, call: Call, response: InferResponse) -> None:
        pass


async def measure(calls: int, rounds: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    service = Service(Tally(), GatewayLimits(), loop)
    service.apply(GatewayState(RouteTable(1, {"mlp": Route("mlp", "1", ("1",))})))
    channel = SocketChannel(loop, _Owner(service), service.calls.deliver, LayoutCache())
    channel.connection_made(Sink())  # type: ignore[arg-type]
    hello = {
        "protocol": 1,
        "replica": "r",
        "versions": [{"model": "mlp", "version": "1", "signature": SIGNATURE.to_json(), "platform": ""}],
    }
    channel.data_received(frame.encode_json(frame.HELLO, json.dumps(hello).encode()))
    channel.data_received(frame.encode_define(3, json.dumps(ANSWER.to_json()).encode()))
    service.attach(channel)

    owner = Silent()
    payload = b"x" * 256
    flush = channel._flush
    frames = _Frames(calls)
    spent: list[tuple[float, float, float, float]] = []
    for turn in range(rounds):
        # In the real gateway the request is made by the codec; here it is not timed.
        requests = [InferRequest("mlp", "", ASKED, (payload,)) for _ in range(calls)]
        answers = frames.of(turn)
        t0 = perf_counter()
        for _ in requests:
            service.versions.resolve("mlp", "")
        t1 = perf_counter()
        served = service.versions.resolve("mlp", "")
        for request in requests:
            service.calls.submit(served, request, owner, None, "rest")
        t2 = perf_counter()
        flush()
        t3 = perf_counter()
        channel.data_received(answers)
        t4 = perf_counter()
        spent.append((t1 - t0, t2 - t1, t3 - t2, t4 - t3))
    assert not service.calls.admission.inflight_requests
    service.close()
    stages = zip(("resolve", "submit", "flush", "responses"), zip(*spent, strict=True), strict=True)
    return {name: median(times) / calls * 1e6 for name, times in stages}


class _Frames:
    """RESPONSES frames for the keys that the channel gives out, turn by turn."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._payload = b"y" * 40 * calls

    def of(self, turn: int) -> bytes:
        first = turn * self._calls + 1
        table = b"".join([frame.RESPONSE.pack(first + i, 3, 40, 50, 20, self._calls, 0, 0, 0) for i in range(self._calls)])
        return frame.encode(frame.RESPONSES, self._calls, table, len(self._payload)) + self._payload


class _Owner:
    """Owner of the channel: the service learns of it by `attach`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def connected(self, channel: Any) -> None: ...

    def ready(self, channel: Any) -> None: ...

    def draining(self, channel: Any) -> None: ...

    def lost(self, channel: Any, sent: list[Call], unsent: list[Call], reason: str) -> None: ...


def per_call(run: Callable[[], object], n: int = 2_000) -> float:
    """Return µs per call, best of many short runs: the machine is rarely ours for long."""
    best = 1e9
    for _ in range(100):
        t = perf_counter()
        for _ in range(n):
            run()
        best = min(best, perf_counter() - t)
    return best / n * 1e6


def pieces() -> dict[str, float]:
    """Return what single steps cost, so that a figure above can be taken apart."""
    cell = Cell()
    response = InferResponse("mlp", "1", ANSWER, b"", Code.OK, "", 50, 20, 32)
    pack = frame.REQUEST.pack
    empty = per_call(lambda: None)
    steps: dict[str, Callable[[], object]] = {
        "tally": lambda: cell.count(response, ASKED, 0.00123, 1.0),
        "InferResponse": lambda: InferResponse("mlp", "1", ANSWER, b"", Code.OK, "", 50, 20, 32),
        "REQUEST.pack": lambda: pack(1, 1, 0, 256, 0, 0, 0, 0),
    }
    return {k: per_call(v) - empty for k, v in steps.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=32, help="calls per turn of the loop")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = [uvloop.run(measure(options.calls, options.rounds)) for _ in range(5)]
    stages = {k: min(r[k] for r in runs) for k in runs[0]}
    stages["total"] = min(sum(r.values()) for r in runs)
    result = {"calls_per_turn": options.calls, "us_per_call": stages, "us_per_step": pieces()}
    if options.json:
        print(json.dumps(result))
        return
    print(f"{options.calls} calls per turn, µs per call")
    for k, v in stages.items():
        print(f"  {k:<14}{v:6.2f}")
    print("of which")
    for k, v in result["us_per_step"].items():  # type: ignore[attr-defined]
        print(f"  {k:<14}{v:6.2f}")


if __name__ == "__main__":
    main()
