"""LitServe's side of `litserve.py`: decoding and encoding each request, the model for a whole batch. Run with a port."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np
import torch

from benchmarks.models.mlp import Mlp


class Predictor(litserve.LitAPI):  # type: ignore[misc]  # lives in another environment
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.model = Mlp().eval()

    def decode_request(self, request: dict[str, str]) -> Any:
        return np.frombuffer(base64.b64decode(request["x"]), np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return torch.from_numpy(np.stack(inputs))

    def predict(self, x: Any) -> Any:
        with torch.inference_mode():
            return self.model(x).numpy()

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, str]:
        return {"y": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    api = Predictor(max_batch_size=64, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False)
