"""Form: how a peer that does not speak the Open Inference Protocol's binary REST wants its request and gives its answer."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import numpy as np
import orjson

from benchmarks.peers.oip import Array
from benchmarks.workload import Workload, WrongAnswer

JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Form:
    """One request, and `read`, which takes the array out of an answer's body."""

    path: str
    body: bytes
    read: Callable[[bytes], Array]

    def check(self, address: str, workload: Workload) -> None:
        """One prediction; raises WrongAnswer or httpx.HTTPError."""
        headers = {**JSON, "accept-encoding": "identity"}
        answer = httpx.post(f"http://{address}{self.path}", content=self.body, headers=headers, timeout=10, trust_env=False)
        if answer.status_code != 200:
            raise WrongAnswer(f"{workload.model} over REST: {answer.status_code} {answer.text[:300]}")
        y = self.read(answer.content)
        if y.size != workload.y.size or not np.allclose(y.ravel(), workload.y.ravel(), rtol=1e-4, atol=1e-5):
            raise WrongAnswer(f"{workload.model} answered {y.ravel()[:5]} for {workload.y.ravel()[:5]}")


def oip_json(workload: Workload) -> Form:
    """The protocol's JSON, numbers as text."""
    x = {"name": "x", "datatype": "FP32", "shape": list(workload.x.shape), "data": workload.x.ravel().tolist()}
    return Form(workload.path, orjson.dumps({"inputs": [x]}), lambda body: np.asarray(orjson.loads(body)["outputs"][0]["data"], np.float32))


def base64_json(path: str, shown: Callable[[str], object], taken: Callable[[object], str], workload: Workload) -> Form:
    """Raw bytes as base64 in JSON; `shown` and `taken` say where in the document the text of the request and of the answer is."""
    text = base64.b64encode(workload.x.tobytes()).decode()
    return Form(path, orjson.dumps(shown(text)), lambda body: np.frombuffer(base64.b64decode(taken(orjson.loads(body))), np.float32))
