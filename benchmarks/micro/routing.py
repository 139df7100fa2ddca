"""What choosing a version costs a request, by the form of the traffic; ns, best of many short runs.

    .venv/bin/python -m benchmarks.micro.routing

`plain` is a route with one version for all: the look-up that every request makes. The others are what a route that shares its requests
out costs instead of it, decision and look-up together.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import cycle
from time import perf_counter

from serving.gateway.call import Description
from serving.gateway.head import Head, new_head
from serving.gateway.local import LocalChannel
from serving.gateway.service import Service
from serving.gateway.tally import Tally
from serving.inference import Buffer, InferResponse, Layout
from serving.protocol.grpc_head import GrpcHead, split
from serving.protocol.schema import ModelInferRequest
from serving.routing import PLAIN, Route, RouteTable, Rule, Share, Sticky, Traffic
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (64,)),), (TensorSpec("y", DType.FP32, (10,)),), 64)
SPLIT = (Share("1", 9500), Share("2", 500))
TENSOR = b'{"name":"x","datatype":"FP32","shape":[1,64],"parameters":{"binary_data_size":256}}'
HEADER = b'{"inputs":[%s],"parameters":{"user":"ann","land":"de"}}' % TENSOR
RULES = tuple(Rule("2", "header", f"x-{i}", "equals", "yes") for i in range(4))


class Asker:
    """A connection, as far as choosing looks at it."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.address = b"192.168.17.4"


def head(user: int = 0) -> Head:
    """Return a head as if it had just been read."""
    found = new_head()
    found.headers = {b"host": b"h", b"content-type": b"application/json", b"x-user": b"user-%d" % user, b"x-land": b"de-%d" % user}
    found.inference_header_length = len(HEADER)
    return found


async def measure() -> dict[str, float]:
    """Return ns by form."""
    known, body = Asker(head()), HEADER + bytes(256)
    many = cycle([Asker(head(i)) for i in range(5000)])

    def new() -> Asker:
        asker = next(many)
        asker.head.choice = None
        return asker

    message = ModelInferRequest(model_name="m", raw_input_contents=[bytes(256)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    message.parameters["user"].string_param = "ann"
    grpc = split(message.SerializeToString())
    by_header, by_parameter = Sticky("header", "x-user"), Sticky("parameter", "user")
    patterns = (Rule("2", "header", "x-land", "matches", "ch-.*|at-.*"),)
    asked = (Rule("2", "parameter", "land", "equals", "at"), Rule("2", "parameter", "land", "matches", "ch|li"))
    forms: dict[str, tuple[Traffic, Callable[[], Asker], Buffer | GrpcHead]] = {
        "plain": (PLAIN, lambda: known, body),
        "split": (Traffic(SPLIT), lambda: known, body),
        "split of 5 versions": (Traffic(tuple(Share(str(i), 2000) for i in range(1, 6))), lambda: known, body),
        "sticky by header, head known": (Traffic(SPLIT, by_header), lambda: known, body),
        "sticky by header, each head new": (Traffic(SPLIT, by_header), new, body),
        "sticky by address": (Traffic(SPLIT, Sticky("address")), lambda: known, body),
        "sticky by parameter, REST": (Traffic(SPLIT, by_parameter), lambda: known, body),
        "sticky by parameter, gRPC": (Traffic(SPLIT, by_parameter), lambda: known, grpc),
        "4 rules on headers, head known": (Traffic(rules=RULES), lambda: known, body),
        "4 rules on headers, each head new": (Traffic(rules=RULES), new, body),
        "a pattern, head known": (Traffic(rules=patterns), lambda: known, body),
        "2 rules on parameters": (Traffic(rules=asked), lambda: known, body),
    }
    return {name: _cost(traffic, asker, said) for name, (traffic, asker, said) in forms.items()}


def _cost(traffic: Traffic, asker: Callable[[], Asker], said: Buffer | GrpcHead, n: int = 1000) -> float:
    loop = asyncio.get_running_loop()
    service = Service(Tally(), GatewayLimits(), loop)
    versions = tuple(str(i) for i in range(1, 6))
    service.apply(GatewayState(RouteTable(1, {"m": Route("m", "1", versions, traffic=traffic)})))
    service.attach(LocalChannel(loop, service.calls.deliver, [Description("m", v, SIGNATURE, "") for v in versions], _nothing))
    resolve = service.versions.resolve
    best = empty = float("inf")
    for _ in range(60):
        start = perf_counter()
        for _ in range(n):
            resolve("m", "", asker(), said)
        middle = perf_counter()
        for _ in range(n):
            asker()
        best, empty = min(best, middle - start), min(empty, perf_counter() - middle)
    service.close()
    return (best - empty) / n * 1e9


def _nothing(layout: Layout, payload: Buffer) -> InferResponse:
    raise AssertionError("nothing is predicted here")


if __name__ == "__main__":
    print(json.dumps({name: round(ns) for name, ns in asyncio.run(measure()).items()}, indent=1))
