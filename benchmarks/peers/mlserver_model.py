"""MLServer's side of `mlserver.py`: a model as its documentation writes it."""

from __future__ import annotations

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.models.mlp import Mlp


class Predictor(MLModel):  # type: ignore[misc]  # lives in another environment
    async def load(self) -> bool:
        torch.set_num_threads(1)
        self.model = Mlp().eval()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = np.asarray(NumpyCodec.decode_input(payload.inputs[0]), np.float32)
        with torch.inference_mode():
            y = self.model(torch.from_numpy(x)).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
