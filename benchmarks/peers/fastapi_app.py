"""FastAPI's side of `fastapi_uvicorn.py`: one raw route, no batching, the model called in the handler."""

from __future__ import annotations

import torch
from fastapi import FastAPI, Request, Response

from benchmarks.peers import oip
from benchmarks.workload import WORKLOADS

torch.set_num_threads(1)
app = FastAPI()
_MODELS = {name: workload.cls().eval() for name, workload in WORKLOADS.items()}


@app.post("/v2/models/{model}/infer")
async def infer(model: str, request: Request) -> Response:
    x = oip.decode(await request.body(), int(request.headers["inference-header-content-length"]))
    with torch.inference_mode():
        y = _MODELS[model](torch.from_numpy(x)).numpy()
    body, headers = oip.encode(model, y)
    return Response(body, headers=headers)


@app.get("/ready")
async def ready() -> None:
    return None
