"""Request: what the generator sends, ready as bytes. Knows no model and no tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.errors import InvalidArgument

Check = Callable[[bytes], str | None]
"""Takes an answer's body and says what is wrong with it, None where it is right. It travels pickled to the processes that send."""

GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


class BadAnswer(Exception):
    """The bytes that came are no answer of the protocol; the message says which."""


@dataclass(frozen=True, slots=True)
class Request:
    """One kind of request, sent over and over.

    name      its row in the report; several requests may share one
    path      with the query, if any; for gRPC /package.Service/Method
    headers   beside those that the drivers write themselves (host and content-length; for gRPC the pseudo-headers, te and content-type)
    body      for gRPC the 5-byte prefix and the message
    weight    its share of all requests, relative to the others' weights
    check     gets the body of an answer (for gRPC with its 5-byte prefix)
    """

    name: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    weight: float = 1.0
    check: Check | None = None
    method: str = "POST"

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or any(mark in self.path for mark in " \r\n"):
            raise InvalidArgument(f"request {self.name!r}: path {self.path!r}, expected one that starts with / and holds no blanks")
        if not 0 < self.weight < float("inf"):
            raise InvalidArgument(f"request {self.name!r}: weight {self.weight}, expected more than 0")
        for name, value in self.headers:
            if any(mark in name + value for mark in "\r\n\0"):
                raise InvalidArgument(f"request {self.name!r}: header {name!r} holds a line break")


def grpc_body(message: bytes) -> bytes:
    """Return `message` behind the five bytes that gRPC puts before it: not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message
