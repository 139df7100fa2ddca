"""Status numbers as clients expect them."""

from __future__ import annotations

import json

import pytest

from serving.errors import Code, QueueFull, Unavailable, Unsupported
from serving.protocol.status import GRPC_STATUS, HTTP_EXCEPTIONS, HTTP_STATUS, REASON, describe, error_json, grpc_status, http_status

TABLE = [
    (Code.OK, 200, 0), (Code.INVALID_ARGUMENT, 400, 3), (Code.NOT_FOUND, 404, 5), (Code.ALREADY_EXISTS, 400, 6), (Code.TOO_LARGE, 413, 8),
    (Code.TOO_MANY_REQUESTS, 429, 8), (Code.QUEUE_FULL, 503, 14), (Code.DEADLINE_EXCEEDED, 504, 4), (Code.QUEUE_TIMEOUT, 503, 14),
    (Code.CANCELLED, 499, 1), (Code.UNSUPPORTED, 501, 12), (Code.UNAVAILABLE, 503, 14), (Code.REPLICA_LOST, 503, 14),
    (Code.INTERNAL, 500, 13), (Code.MODEL_FAILED, 500, 13), (Code.UNAUTHENTICATED, 401, 16), (Code.PERMISSION_DENIED, 403, 7),
    (Code.SEQUENCE_UNKNOWN, 400, 3), (Code.SEQUENCES_FULL, 503, 14),
]  # fmt: skip


@pytest.mark.parametrize(("code", "http", "grpc"), TABLE, ids=[r[0].name for r in TABLE])
def test_each_code_has_its_status(code: Code, http: int, grpc: int) -> None:
    assert (http_status(code), grpc_status(code)) == (http, grpc)


def test_no_code_is_left_out() -> None:
    assert set(HTTP_STATUS) == set(GRPC_STATUS) == set(Code) == {r[0] for r in TABLE}
    assert REASON.keys() >= {*HTTP_STATUS.values(), *HTTP_EXCEPTIONS.values()}


def test_some_endpoints_differ() -> None:
    assert http_status(Code.UNAVAILABLE, "model_ready") == 400
    assert http_status(Code.NOT_FOUND, "stats") == 400
    assert http_status(Code.UNSUPPORTED, "content_encoding") == 415
    assert describe(Unsupported("br"), "content_encoding") == (415, "Unsupported Media Type", b'{"error":"br"}')
    assert describe(Unavailable("x")) == (503, "Service Unavailable", b'{"error":"x"}')
    assert describe(QueueFull("full"), "infer")[0] == 503


@pytest.mark.parametrize("message", ["plain", 'qu"ote', "ünï\n", "\x00"])
def test_error_bodies_are_json(message: str) -> None:
    assert json.loads(error_json(message)) == {"error": message}


def test_error_bodies_are_json_even_for_half_a_character() -> None:
    assert json.loads(error_json("a\ud800")) == {"error": "a?"}
