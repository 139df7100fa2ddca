"""ParameterReader: the parameters of a request before it is decoded, for routes that choose a version by them.

A codec belongs to a version, so it comes after the choice. What was read is kept by the bytes of the JSON header or gRPC head, as in
codecs; only JSON bodies without binary tensors are parsed twice. What cannot be read has no parameters: the codec will say what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serving.errors import DecodeError
from serving.inference import Buffer, ParameterValue
from serving.protocol.grpc_head import GrpcHead
from serving.protocol.json_text import parse as parse_json
from serving.protocol.recent import Recent
from serving.protocol.schema import ModelInferRequest, parse

MAX_JSON_BYTES: Final = 64 << 20


class Parameters:
    """Parameters by name; shared by requests with the same bytes. `choice` is what was made of them, as in a head."""

    __slots__ = ("choice", "values")

    def __init__(self, values: Mapping[str, ParameterValue]) -> None:
        self.values = values
        self.choice: tuple[object, int] | None = None


NONE: Final = Parameters({})


class ParameterReader:
    """For the routes of one gateway. Not safe to use from several threads."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: Recent[bytes, Parameters] = Recent(1024, 1 << 20)

    def of_rest(self, body: Buffer, header_length: int | None) -> Parameters:
        """Return the parameters of an infer body (those of the request, not of its tensors)."""
        if header_length is None:
            return _of_json(body) if len(body) <= MAX_JSON_BYTES else NONE
        if not 0 < header_length <= min(len(body), MAX_JSON_BYTES):
            return NONE
        header = bytes(body[:header_length])
        known = self._known.young.get(header)
        if known is not None:
            return known[0]
        found = self._known.find(header)
        if found is None:
            found = _of_json(header)
            self._known.keep(header, found, header_length + 256)
        return found

    def of_grpc(self, head: GrpcHead) -> Parameters:
        """Return the parameters of a ModelInferRequest."""
        known = self._known.young.get(head.head_bytes)
        if known is not None:
            return known[0]
        found = self._known.find(head.head_bytes)
        if found is None:
            found = _of_message(head.head_bytes)
            self._known.keep(head.head_bytes, found, len(head.head_bytes) + 256)
        return found


def _of_json(text: Buffer) -> Parameters:
    try:
        document = parse_json(text)
    except DecodeError:
        return NONE
    parameters = document.get("parameters") if isinstance(document, dict) else None
    if not isinstance(parameters, dict):
        return NONE
    return Parameters({key: value for key, value in parameters.items() if isinstance(value, str | int | float)})


def _of_message(head: bytes) -> Parameters:
    try:
        message = parse(ModelInferRequest, head)
    except DecodeError:
        return NONE
    chosen = {key: (p, p.WhichOneof("parameter_choice")) for key, p in message.parameters.items()}
    return Parameters({key: getattr(p, choice) for key, (p, choice) in chosen.items() if choice})
