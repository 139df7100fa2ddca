"""KServe's SDK against an engine: both of its clients. Prints one JSON object.

python kserve_sdk.py HOST:PORT-of-REST HOST:PORT-of-gRPC   (in an environment that has the package kserve)
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request(model: str, *values: float, binary: bool = False) -> InferRequest:
    data = np.array([values], np.float32)
    x = InferInput("x", list(data.shape), "FP32")
    x.set_data_from_numpy(data, binary_data=binary)
    return InferRequest(model, [x], request_id="sdk")


def told(answer: Any) -> dict[str, Any]:
    return {"id": answer.id, "model": answer.model_name, "numbers": answer.outputs[0].as_numpy().ravel().tolist()}


async def failure(call: Any) -> str:
    try:
        await call
    except Exception as error:
        return str(error)
    return ""


async def main(rest_address: str, grpc_address: str) -> None:
    found: dict[str, Any] = {}
    base = f"http://{rest_address}"
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20))
    found["rest"] = {
        "live": await rest.is_server_live(base),
        "ready": await rest.is_server_ready(base),
        "model": await rest.is_model_ready(base, "marked"),
        "nobody": await failure(rest.is_model_ready(base, "nobody")),
        "json": told(await rest.infer(base, request("marked", 1, 2, 3), model_name="marked")),
        "binary": told(await rest.infer(base, request("marked", 1, 2, 3, binary=True), model_name="marked")),
        "unknown": await failure(rest.infer(base, request("nobody", 1), model_name="nobody")),
    }
    await rest.close()
    async with InferenceGRPCClient(grpc_address, timeout=20) as rpc:
        found["grpc"] = {
            "live": await rpc.is_server_live(),
            "ready": await rpc.is_server_ready(),
            "model": await rpc.is_model_ready("marked"),
            "nobody": await rpc.is_model_ready("nobody"),
            "typed": told(await rpc.infer(request("marked", 1, 2, 3))),
            "raw": told(await rpc.infer(request("marked", 1, 2, 3, binary=True))),
            "unknown": await failure(rpc.infer(request("nobody", 1))),
        }
    print(json.dumps(found))  # noqa: T201


asyncio.run(main(*sys.argv[1:]))
