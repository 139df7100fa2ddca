"""How a running engine shares requests out between versions: counts over REST, gRPC and streams, and edits under load.

    python -m benchmarks.split --model digits --requests 100000                          counts, against the band of 99.9 %
    python -m benchmarks.split --model digits --requests 0 --edits 20 --rate 2000        what an edit takes, and what it drops

The engine is one that runs already (`serving up configs/split.yaml`). Edits are of its shares, through the control API; the last one puts
back what was there. After each the next answers, on new connections through all gateways, must be of the one version that has all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from math import sqrt
from time import monotonic, perf_counter
from typing import Any
from urllib.request import Request, urlopen

import grpc.aio
import uvloop
from tritonclient.grpc import service_pb2, service_pb2_grpc

WAYS = ("rest", "grpc", "stream")
CONNECTIONS = 16
WINDOW = 32
"""Requests that a stream has under way."""
Z = 3.2905
"""99.9 % of a normal distribution, both sides."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where an engine listens, each "host:port"."""

    http: str
    grpc: str
    control: str = ""


@dataclass
class Found:
    """What a load has seen: answers by version, and what was no answer."""

    versions: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


def band(count: int, share: float) -> tuple[float, float]:
    """Return between which counts 99.9 % of binomial draws lie (normal approximation)."""
    wide = Z * sqrt(count * share * (1 - share))
    return count * share - wide, count * share + wide


def ask(url: str, body: Any = None) -> Any:
    """Return the JSON of a control or metadata address."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=60) as answer:
        return json.load(answer)


class Load:
    """Asks one model with inputs of zeros, over `CONNECTIONS` connections."""

    def __init__(self, doors: Doors, model: str) -> None:
        self._doors = doors
        self._model = model
        self._tensors = [
            (t["name"], t["datatype"], [1 if d < 0 else d for d in t["shape"]])
            for t in ask(f"http://{doors.http}/v2/models/{model}")["inputs"]
        ]
        self.stop = False

    async def count(self, way: str, requests: int, rate: float = 0.0) -> Found:
        """Return who answered so many requests, `rate` of them a second (0: as fast as they come)."""
        found = Found()
        run = {"rest": self._rest, "grpc": self._grpc, "stream": self._stream}[way]
        each, more = divmod(requests, CONNECTIONS)
        pause_s = CONNECTIONS / rate if rate else 0.0
        await asyncio.gather(*(run(each + (i < more), found, pause_s) for i in range(CONNECTIONS) if each + (i < more)))
        return found

    async def _rest(self, count: int, found: Found, pause_s: float) -> None:
        inputs = [{"name": n, "datatype": d, "shape": s, "data": [0] * _elements(s)} for n, d, s in self._tensors]
        body = json.dumps({"inputs": inputs}).encode()
        request = b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (self._model.encode(), len(body), body)
        reader, writer = await asyncio.open_connection(*self._doors.http.split(":"))
        due = monotonic()
        for _ in range(count):
            if self.stop:
                break
            writer.write(request)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
                answer = await reader.readexactly(length)
            except (OSError, EOFError) as error:
                found.failed.append(repr(error))
                break
            if head.startswith(b"HTTP/1.1 200"):
                found.versions[json.loads(answer)["model_version"]] += 1
            else:
                found.failed.append(answer.decode())
            due = await _paced(due, pause_s)
        writer.close()

    async def _grpc(self, count: int, found: Found, pause_s: float) -> None:
        call = self._message()
        due = monotonic()
        async with _channel(self._doors.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for _ in range(count):
                if self.stop:
                    break
                try:
                    found.versions[(await stub.ModelInfer(call, timeout=30)).model_version] += 1
                except grpc.aio.AioRpcError as error:
                    found.failed.append(f"{error.code()}: {error.details()}")
                due = await _paced(due, pause_s)

    async def _stream(self, count: int, found: Found, pause_s: float) -> None:
        call = self._message()
        free = asyncio.Semaphore(WINDOW)

        async def calls() -> Any:
            due = monotonic()
            for _ in range(count):
                if self.stop:
                    break
                await free.acquire()
                yield call
                due = await _paced(due, pause_s)

        async with _channel(self._doors.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                async for answer in stub.ModelStreamInfer(calls(), timeout=3600):
                    free.release()
                    if answer.error_message:
                        found.failed.append(answer.error_message)
                    else:
                        found.versions[answer.infer_response.model_version] += 1
            except grpc.aio.AioRpcError as error:
                found.failed.append(f"{error.code()}: {error.details()}")

    def _message(self) -> Any:
        message = service_pb2.ModelInferRequest(model_name=self._model)
        for name, datatype, shape in self._tensors:
            message.inputs.add(name=name, datatype=datatype, shape=shape)
            message.raw_input_contents.append(bytes(_elements(shape) * _SIZES[datatype]))
        return message


_SIZES = {"FP32": 4, "INT32": 4, "FP64": 8, "INT64": 8, "UINT8": 1, "BOOL": 1}


def _elements(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _channel(address: str) -> Any:
    return grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


async def _paced(due: float, pause_s: float) -> float:
    """Wait until the next request of a connection is due; return when that is."""
    if not pause_s:
        return 0.0
    due += pause_s
    await asyncio.sleep(max(0.0, due - monotonic()))
    return due


@dataclass
class Edits:
    """What edits took until the call returned, in seconds; answers of a version that had no share any more; the load's own answers."""

    took_s: list[float]
    late: list[str]
    load: Found
    answers_s: float


async def edit_under_load(doors: Doors, model: str, edits: int, rate: float) -> Edits:
    """Give all requests to one version and to another in turn, `edits` times, while requests come over all ways."""
    load, probe = Load(doors, model), Load(doors, model)
    target = await asyncio.to_thread(ask, f"http://{doors.control}/api/target")
    row = next(r for r in target["routes"]["routes"] if r[0] == model)
    whole = {"rules": [], "sticky": None, "shadows": []}
    changed = [json.loads(json.dumps(target)) for _ in row[2]]
    for version, one in zip(row[2], changed, strict=True):
        shares = [[v, 10_000 if v == version else 0] for v in row[2]]
        here = next(r for r in one["routes"]["routes"] if r[0] == model)
        here[4:] = [{**whole, "split": shares}]
    began = perf_counter()
    running = [asyncio.create_task(load.count(way, 1 << 40, rate / len(WAYS))) for way in WAYS]
    took, late = [], []
    for i in range(edits):
        version, goal = row[2][i % len(row[2])], changed[i % len(row[2])]
        start = perf_counter()
        await asyncio.to_thread(ask, f"http://{doors.control}/api/apply", {"target": goal, "wait_s": 30.0})
        took.append(perf_counter() - start)
        for way in WAYS:
            found = await probe.count(way, 2 * CONNECTIONS)
            late += [f"edit {i}, {way}: {n} of version {v}" for v, n in found.versions.items() if v != version] + found.failed
    load.stop = True
    results = await asyncio.gather(*running)
    spent = perf_counter() - began
    await asyncio.to_thread(ask, f"http://{doors.control}/api/apply", {"target": target, "wait_s": 30.0})
    total = Found()
    for result in results:
        total.versions += result.versions
        total.failed += result.failed
    return Edits(took, late, total, spent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", default="127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--control", default="127.0.0.1:8003")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--version", default="2", help="the version whose answers are counted")
    parser.add_argument("--percent", type=float, default=5.0, help="what it should have")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--requests", type=int, default=100_000, help="over each way")
    parser.add_argument("--edits", type=int, default=0)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second while edits are made")
    options = parser.parse_args()
    doors = Doors(options.http, options.grpc, options.control)
    wrong = 0
    if options.requests:
        low, high = band(options.requests, options.percent / 100)
        for way in options.ways:
            start = perf_counter()
            found = uvloop.run(Load(doors, options.model).count(way, options.requests))
            count = found.versions[options.version]
            fine = low <= count <= high and not found.failed
            wrong += not fine
            speed = options.requests / (perf_counter() - start)
            print(f"{way:<8}{count:8d} of {options.requests}   band {low:.0f} to {high:.0f}   {speed:.0f}/s   {'ok' if fine else 'WRONG'}")
            for said in found.failed[:3]:
                print(f"        {said}")
    if options.edits:
        edits = uvloop.run(edit_under_load(doors, options.model, options.edits, options.rate))
        answers = sum(edits.load.versions.values())
        took, failed = sorted(edits.took_s), edits.load.failed
        print(f"edits    {len(took)}: median {took[len(took) // 2] * 1e3:.0f} ms, longest {took[-1] * 1e3:.0f} ms; late: {edits.late}")
        print(f"load     {answers} answers, {answers / edits.answers_s:.0f}/s, {len(failed)} failed {failed[:3]}")
        wrong += bool(edits.late or edits.load.failed or took[-1] >= 1.0)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
