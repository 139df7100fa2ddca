"""The request for a peer that does not speak the Open Inference Protocol's binary REST."""

from __future__ import annotations

import base64
from collections.abc import Callable

import orjson

from benchmarks.answer import Base64Answer, SameBody
from benchmarks.ask import Ask
from benchmarks.workload import Workload
from serving.bench.answers import AnswerCheck

JSON = {"content-type": "application/json"}


def oip_json(workload: Workload) -> Ask:
    """The protocol's JSON, numbers as text."""
    x = {"name": "x", "datatype": "FP32", "shape": list(workload.x.shape), "data": workload.x.ravel().tolist()}
    check = AnswerCheck("rest", workload.expected)
    return Ask("rest", workload.model, workload.path, orjson.dumps({"inputs": [x]}), check, JSON)


def base64_json(path: str, shown: Callable[[str], object], way: tuple[str | int, ...], workload: Workload) -> Ask:
    """Raw bytes as base64 in JSON; `shown` makes the document of the request, `way` leads to the text of the answer."""
    text = base64.b64encode(workload.x.tobytes()).decode()
    return Ask("rest", workload.model, path, orjson.dumps(shown(text)), Base64Answer(way, workload.y), JSON)


def echo(workload: Workload) -> Ask:
    """For a server that gives any body back."""
    return Ask("rest", workload.model, workload.path, workload.rest_body, SameBody(workload.rest_body), workload.rest_headers)
