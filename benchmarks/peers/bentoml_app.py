"""BentoML's side of `bentoml.py`: a service with one method that takes a batch."""

# No postponed annotations: BentoML makes its schema from the types.
import base64

import bentoml
import numpy as np
import torch

from benchmarks.models.mlp import Mlp


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})  # type: ignore[untyped-decorator]
class Predictor:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model = Mlp().eval()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)  # type: ignore[untyped-decorator]
    def predict(self, x: list[str]) -> list[str]:
        rows = np.stack([np.frombuffer(base64.b64decode(text), np.float32) for text in x])
        with torch.inference_mode():
            y = self.model(torch.from_numpy(rows)).numpy()
        return [base64.b64encode(row.tobytes()).decode() for row in y]
