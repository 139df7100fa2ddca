"""Status numbers: neutral Code to HTTP and to gRPC. The only file that knows them, with the exceptions per endpoint."""

from __future__ import annotations

from typing import Final, Literal

import orjson

from serving.errors import Code, ServingError

Endpoint = Literal["", "infer", "model_ready", "stats", "content_encoding"]

HTTP_STATUS: Final[dict[Code, int]] = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 400,
    Code.TOO_LARGE: 413,
    Code.TOO_MANY_REQUESTS: 429,
    Code.QUEUE_FULL: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.QUEUE_TIMEOUT: 503,
    Code.CANCELLED: 499,
    Code.UNSUPPORTED: 501,
    Code.UNAVAILABLE: 503,
    Code.REPLICA_LOST: 503,
    Code.INTERNAL: 500,
    Code.MODEL_FAILED: 500,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.SEQUENCE_UNKNOWN: 400,
    Code.SEQUENCES_FULL: 503,
}

HTTP_EXCEPTIONS: Final[dict[tuple[Endpoint, Code], int]] = {
    ("model_ready", Code.UNAVAILABLE): 400,  # loaded, not ready: clients read 400 as "no"
    ("stats", Code.NOT_FOUND): 400,
    ("content_encoding", Code.UNSUPPORTED): 415,
}

OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS = 0, 1, 3, 4, 5, 6
PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 7, 8, 12, 13, 14, 16

GRPC_STATUS: Final[dict[Code, int]] = {
    Code.OK: OK,
    Code.INVALID_ARGUMENT: INVALID_ARGUMENT,
    Code.NOT_FOUND: NOT_FOUND,
    Code.ALREADY_EXISTS: ALREADY_EXISTS,
    Code.TOO_LARGE: RESOURCE_EXHAUSTED,
    Code.TOO_MANY_REQUESTS: RESOURCE_EXHAUSTED,
    Code.QUEUE_FULL: UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: DEADLINE_EXCEEDED,
    Code.QUEUE_TIMEOUT: UNAVAILABLE,
    Code.CANCELLED: CANCELLED,
    Code.UNSUPPORTED: UNIMPLEMENTED,
    Code.UNAVAILABLE: UNAVAILABLE,
    Code.REPLICA_LOST: UNAVAILABLE,
    Code.INTERNAL: INTERNAL,
    Code.MODEL_FAILED: INTERNAL,
    Code.UNAUTHENTICATED: UNAUTHENTICATED,
    Code.PERMISSION_DENIED: PERMISSION_DENIED,
    Code.SEQUENCE_UNKNOWN: INVALID_ARGUMENT,
    Code.SEQUENCES_FULL: UNAVAILABLE,
}

REASON: Final[dict[int, str]] = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def http_status(code: Code, endpoint: Endpoint = "") -> int:
    """Return the HTTP status of the code at that endpoint."""
    return HTTP_EXCEPTIONS.get((endpoint, code)) or HTTP_STATUS[code]


def grpc_status(code: Code) -> int:
    """Return the gRPC status number of the code."""
    return GRPC_STATUS[code]


def error_json(message: str) -> bytes:
    """Return the body of every HTTP error: `{"error": message}`. Lone surrogates become "?"."""
    try:
        return orjson.dumps({"error": message})
    except TypeError:
        return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def describe(error: ServingError, endpoint: Endpoint = "") -> tuple[int, str, bytes]:
    """Return HTTP status, reason and JSON body of the error."""
    status = http_status(error.code, endpoint)
    return status, REASON[status], error_json(error.message)
