"""KServe's side of `kserve.py`: a Model with a synchronous predict."""

from __future__ import annotations

import logging
from typing import Any

import kserve
import numpy as np
import torch
import uvicorn
from kserve.protocol.rest import server as rest_server

from benchmarks.models.mlp import Mlp


class Local(uvicorn.Config):
    """The SDK listens on every address and logs every request; neither can be set."""

    def __init__(self, app: Any, **settings: Any) -> None:
        super().__init__(app, **{**settings, "host": "127.0.0.1", "access_log": False})


class Predictor(kserve.Model):  # type: ignore[misc]  # lives in another environment
    def load(self) -> bool:
        torch.set_num_threads(1)
        self.model = Mlp().eval()
        self.ready = True
        return True

    def predict(self, payload: kserve.InferRequest, headers: Any = None, response_headers: Any = None) -> kserve.InferResponse:
        x = payload.inputs[0].as_numpy()
        with torch.inference_mode():
            y = self.model(torch.from_numpy(np.array(x))).numpy()
        output = kserve.InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=True)
        return kserve.InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=[output], use_binary_outputs=True)


if __name__ == "__main__":
    rest_server.uvicorn.Config = Local
    predictor = Predictor("mlp")
    predictor.load()
    logging.getLogger("kserve").setLevel(logging.WARNING)
    kserve.ModelServer().start([predictor])
