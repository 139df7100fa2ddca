"""Nanoseconds per operation of the protocol codecs: `python -m benchmarks.micro.protocol`.

The best of several rounds, so that a busy machine shows less. The first line is a reference (an empty call) to scale
figures of another machine by. tritonclient makes the requests.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc._utils import _get_inference_request as grpc_request
from tritonclient.http._utils import _get_inference_request as rest_request

from serving.inference import InferResponse, Layout, TensorLayout
from serving.protocol.grpc import GrpcCodec
from serving.protocol.grpc_frame import prefixed, whole_message
from serving.protocol.grpc_head import split
from serving.protocol.rest import RestCodec
from serving.tensor import DType, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (64,)),), (TensorSpec("y", DType.FP32, (10,)),), 64)
VALUES = np.random.default_rng(0).random((1, 64), dtype=np.float32)
ANSWER = InferResponse("mlp", "1", Layout((TensorLayout.fixed("y", DType.FP32, (1, 10)),)), VALUES[:, :10].tobytes())
ROUNDS, FRESH = 7, 2000


def nanoseconds(call: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(call, number=number, repeat=ROUNDS)) / number * 1e9


def rest(binary: bool, id: str = "") -> tuple[bytes, int]:
    tensor = triton_http.InferInput("x", [1, 64], "FP32").set_data_from_numpy(VALUES, binary_data=binary)
    outputs = None if binary else [triton_http.InferRequestedOutput("y", binary_data=False)]
    body, length = rest_request([tensor], id, outputs, 0, False, False, 0, None, None)
    return body, length


def grpc(id: str = "") -> memoryview:
    tensor = triton_grpc.InferInput("x", [1, 64], "FP32").set_data_from_numpy(VALUES)
    return memoryview(grpc_request("mlp", [tensor], "", id, None, 0, False, False, 0, None, None).SerializeToString())


def each_fresh(call: Callable[[int], object]) -> Callable[[], None]:
    def all_of_them() -> None:
        for i in range(FRESH):
            call(i)

    return all_of_them


def measure() -> dict[str, float]:
    rest_codec, grpc_codec = RestCodec("mlp", "1", SIGNATURE), GrpcCodec("mlp", "1", SIGNATURE)
    binary, text, message = rest(True), rest(False), grpc()
    rest_ids, grpc_ids = [rest(True, f"request-{i}") for i in range(FRESH)], [grpc(f"request-{i:06}") for i in range(FRESH)]
    _, rest_plan = rest_codec.decode(*binary)
    _, text_plan = rest_codec.decode(*text)
    _, grpc_plan = grpc_codec.decode(split(message))

    def rest_pair() -> None:
        _, plan = rest_codec.decode(*binary)
        rest_codec.encode(plan, ANSWER)

    def text_pair() -> None:
        _, plan = rest_codec.decode(*text)
        rest_codec.encode(plan, ANSWER)

    def grpc_pair() -> None:
        _, plan = grpc_codec.decode(split(message))
        grpc_codec.encode(plan, ANSWER)

    def rest_fresh(i: int) -> None:
        _, plan = rest_codec.decode(*rest_ids[i])
        rest_codec.encode(plan, ANSWER)

    def rest_unknown(i: int) -> None:
        body, length = rest_ids[i]
        # A blank before the id hides it: the header is read as one never seen.
        rest_codec.decode(b" " + body, length + 1)

    def grpc_fresh(i: int) -> None:
        _, plan = grpc_codec.decode(split(grpc_ids[i]))
        grpc_codec.encode(plan, ANSWER)

    picture = np.random.default_rng(0).random((1, 3, 224, 224), dtype=np.float32)
    large_codec = RestCodec(
        "picture", "1", Signature((TensorSpec("x", DType.FP32, (3, 224, 224)),), (TensorSpec("y", DType.FP32, (10,)),), 64)
    )
    inputs = [{"name": "x", "datatype": "FP32", "shape": picture.shape, "data": picture.reshape(-1).tolist()}]
    large = json.dumps({"inputs": inputs}).encode()
    framed = b"".join(bytes(part) for part in prefixed([message]))
    answer = grpc_codec.encode(grpc_plan, ANSWER)
    return {
        "empty call": nanoseconds(lambda: None, 100_000),
        "REST binary cached: decode": nanoseconds(lambda: rest_codec.decode(*binary), 20_000),
        "REST binary cached: encode": nanoseconds(lambda: rest_codec.encode(rest_plan, ANSWER), 20_000),
        "REST binary cached: decode + encode": nanoseconds(rest_pair, 20_000),
        "REST binary, fresh id: decode + encode": nanoseconds(each_fresh(rest_fresh), 1) / FRESH,
        "REST binary, unknown header: decode": nanoseconds(each_fresh(rest_unknown), 1) / FRESH,
        "REST JSON, 64 numbers: decode": nanoseconds(lambda: rest_codec.decode(*text), 3_000),
        "REST JSON, 10 numbers: encode": nanoseconds(lambda: rest_codec.encode(text_plan, ANSWER), 10_000),
        "REST JSON small: decode + encode": nanoseconds(text_pair, 3_000),
        "REST JSON, 150,528 numbers: decode": nanoseconds(lambda: large_codec.decode(large, None), 5),
        "  the same: json.loads and numpy": nanoseconds(lambda: np.array(json.loads(large)["inputs"][0]["data"], np.float32), 2),
        "gRPC cached: split": nanoseconds(lambda: split(message), 20_000),
        "gRPC cached: split + decode + encode": nanoseconds(grpc_pair, 20_000),
        "gRPC, fresh id: split + decode + encode": nanoseconds(each_fresh(grpc_fresh), 1) / FRESH,
        "gRPC frame: whole_message + prefixed": nanoseconds(lambda: (whole_message(framed), prefixed(answer)), 20_000),
    }


def main() -> None:
    for name, figure in measure().items():
        print(f"{name:<42} {figure:9.0f} ns")


if __name__ == "__main__":
    main()
