"""Every answer belongs to its request: many clients of both protocols, mixed models, shapes and batches, and clients that give up."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
import orjson
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .rig import DataPath, eventually
from .test_grpc import ALONE

DURATION_S = float(os.environ.get("SERVING_IDENTITY_S", "8"))
CONNECTIONS = 64
NUMBERS = itertools.count(1)
Array = np.ndarray[Any, Any]


class Question(NamedTuple):
    """A request whose answer can be told from all others."""

    model: str
    version: str
    id: str
    datatype: str
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def question(dice: random.Random) -> Question:
    number = next(NUMBERS)
    rows = dice.randint(1, 5)
    match dice.randrange(4):
        case 0:
            x = np.full((rows, dice.randint(1, 6)), number, np.float32) + np.arange(rows, dtype=np.float32)[:, None] / 8
            return Question("echo_fp32", "", str(number), "FP32", {"x": x}, {"y": x})
        case 1:
            a, b = np.full((rows, 16), number, np.int32), np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
            wanted = {"sum": a + b, "difference": a - b}
            if dice.random() < 0.5:
                del wanted[dice.choice(("sum", "difference"))]
            return Question("pair", dice.choice(("", "1", "2")), str(number), "INT32", {"a": a, "b": b}, wanted)
        case 2:
            x = np.full((rows, 3), number, np.float32)
            if dice.random() < 0.1:
                x[-1] = -1
                return Question("marked", "", str(number), "FP32", {"x": x}, {})
            return Question("marked", "", str(number), "FP32", {"x": x}, {"y": x * 2})
        case _:
            x = np.full((rows, dice.choice((1, 4000, 40_000))), number, np.int64)
            return Question("echo_int64", "1", str(number), "INT64", {"x": x}, {"y": x})


class Crowd:
    def __init__(self, path: DataPath) -> None:
        self.path = path
        self.end = time.monotonic() + DURATION_S
        self.answered = 0
        self.given_up = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    def check(self, asked: Question, id: str, got: dict[str, Array]) -> None:
        assert id == asked.id
        assert got.keys() == asked.outputs.keys()
        for name, value in asked.outputs.items():
            np.testing.assert_array_equal(got[name], value)
        self.answered += 1

    async def rest(self, seed: int) -> None:
        dice = random.Random(seed)
        while self.goes_on():
            reader, writer = await asyncio.open_connection(*self.path.rest.split(":"))
            for _ in range(dice.randint(1, 60)):
                asked = question(dice)
                writer.write(rest_message(asked, binary=dice.random() < 0.8))
                if dice.random() < 0.03:
                    # hang up at some point of its way
                    await asyncio.sleep(dice.random() * 0.004)
                    self.given_up += 1
                    break
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await asyncio.wait_for(reader.readexactly(int(fields["content-length"])), 60)
                if not asked.outputs:
                    assert b"a row is marked" in body, body
                    continue
                assert " 200 " in head, body
                self.check(asked, *rest_answer(body, fields.get("inference-header-content-length")))
            writer.transport.abort()

    async def unary(self, seed: int, channel: grpc.aio.Channel) -> None:
        dice = random.Random(seed)
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        while self.goes_on():
            asked = question(dice)
            impatient = dice.random() < 0.05
            call = infer(grpc_message(asked), timeout=dice.random() * 0.006 if impatient else 60)
            if dice.random() < 0.05:
                await asyncio.sleep(dice.random() * 0.004)
                call.cancel()
            try:
                answer = await call
            except asyncio.CancelledError:
                self.given_up += 1
            except grpc.aio.AioRpcError as error:
                late = impatient and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                self.given_up += late
                if not late and (asked.outputs or "a row is marked" not in str(error.details())):
                    raise
            else:
                self.check(asked, *grpc_answer(answer))

    async def stream(self, seed: int, channel: grpc.aio.Channel) -> None:
        dice = random.Random(seed)
        while self.goes_on():
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
            for _ in range(dice.randint(1, 20)):
                batch = [question(dice) for _ in range(dice.randint(1, 8))]
                for asked in batch:
                    await call.write(grpc_message(asked))
                if dice.random() < 0.05:
                    self.given_up += 1
                    break
                for asked in batch:
                    answer = await asyncio.wait_for(call.read(), 60)
                    assert answer.infer_response.id == asked.id
                    if asked.outputs:
                        self.check(asked, *grpc_answer(answer.infer_response))
                    else:
                        assert "a row is marked" in answer.error_message
            call.cancel()


def rest_message(asked: Question, binary: bool) -> bytes:
    inputs = []
    raw = b""
    for name, value in asked.inputs.items():
        tensor: dict[str, Any] = {"name": name, "shape": value.shape, "datatype": asked.datatype}
        if binary:
            tensor["parameters"] = {"binary_data_size": value.nbytes}
            raw += value.tobytes()
        else:
            tensor["data"] = value.reshape(-1).tolist()
        inputs.append(tensor)
    outputs = [{"name": name, "parameters": {"binary_data": binary}} for name in asked.outputs]
    header = orjson.dumps({"id": asked.id, "inputs": inputs, "outputs": outputs})
    path = f"/v2/models/{asked.model}{f'/versions/{asked.version}' if asked.version else ''}/infer"
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(header) + len(raw)}\r\n"
    if binary:
        head += f"Inference-Header-Content-Length: {len(header)}\r\n"
    return f"{head}\r\n".encode() + header + raw


def rest_answer(body: bytes, header_length: str | None) -> tuple[str, dict[str, Array]]:
    at = int(header_length) if header_length else len(body)
    answer = orjson.loads(body[:at])
    found = {}
    for output in answer["outputs"]:
        dtype = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}[output["datatype"]]
        if "data" in output:
            flat = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            flat = np.frombuffer(body[at : at + size], dtype)
            at += size
        found[output["name"]] = flat.reshape(output["shape"])
    return answer["id"], found


def grpc_message(asked: Question) -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=asked.model, model_version=asked.version, id=asked.id)
    for name, value in asked.inputs.items():
        message.inputs.add(name=name, datatype=asked.datatype, shape=value.shape)
        message.raw_input_contents.append(value.tobytes())
    for name in asked.outputs:
        message.outputs.add(name=name)
    return message


def grpc_answer(answer: service_pb2.ModelInferResponse) -> tuple[str, dict[str, Array]]:
    found = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        dtype = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}[output.datatype]
        found[output.name] = np.frombuffer(raw, dtype).reshape(tuple(output.shape))
    return answer.id, found


async def test_every_answer_belongs_to_its_request(path: DataPath) -> None:
    crowd = Crowd(path)
    channels = [grpc.aio.insecure_channel(path.grpc, options=ALONE) for _ in range(CONNECTIONS // 4)]
    async with asyncio.TaskGroup() as group:
        for seed in range(CONNECTIONS * 3 // 4):
            group.create_task(crowd.rest(seed))
        for seed, channel in enumerate(channels):
            group.create_task(crowd.stream(seed, channel) if seed < 4 else crowd.unary(seed, channel))
            group.create_task(crowd.unary(1000 + seed, channel))
    for channel in channels:
        await channel.close()
    assert crowd.answered > 500
    assert crowd.given_up > 20
    # nothing of those who gave up is left anywhere
    models = ("echo_fp32", "echo_int64", "marked", "pair")
    await eventually(lambda: sum(path.open(m) for m in models) + path.open("pair", "2") == 0)
    hosts = [m.server._host for m in path.members]
    await eventually(lambda: all(h is not None and h.service.calls.admission.inflight_requests == 0 for h in hosts))
    assert all(h is not None and h.service.calls.admission.inflight_bytes == 0 and h.arriving_bytes == 0 for h in hosts)
