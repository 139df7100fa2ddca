"""GenerateCodec: the bodies of `generate` and `generate_stream`, plain JSON objects, for one served version.

A key that is an input of the model becomes a tensor whose shape is fitted to the number of its elements; `id` and `parameters` (one
level, whose keys may be inputs too) are reserved; every other key is a parameter. An answer has its outputs by name; one element
stands without brackets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import orjson

from serving.errors import DecodeError, InvalidArgument, ModelFailed, ServingError
from serving.inference import Buffer, InferRequest, InferResponse
from serving.protocol import control, json_tensor
from serving.protocol.check import Contract, shape_text
from serving.protocol.json_text import parse
from serving.sequence import Step
from serving.tensor import ANY, Signature, TensorSpec, element_count

ONE_EXPECTED: Final = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number of responses"
)
_NO_DATA: Final = memoryview(b"")


class GeneratePlan:
    """How the answers to one request are to be written."""

    __slots__ = ("id",)

    def __init__(self, id: str) -> None:
        self.id = id


class _Given:
    """What a body (`text`) gives: tensors in its order, and parameters."""

    __slots__ = ("buffers", "labels", "names", "parameters", "shapes", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.names: list[str] = []
        self.labels: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.buffers: list[Buffer] = []
        self.parameters: dict[str, Any] = {}


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as they came, twice where they came twice."""


class GenerateCodec:
    """Not safe to use from several threads."""

    __slots__ = ("_contract", "_inputs", "_max_json_bytes", "_names", "model", "version")

    def __init__(self, model: str, version: str, signature: Signature, *, max_json_bytes: int) -> None:
        self.model = model
        self.version = version
        self._contract = Contract(model, version, signature)
        self._inputs = {spec.name: (spec, signature.wire_shape(spec)) for spec in signature.inputs}
        self._names = [b'"%s"' % spec.name.encode("utf-8", "replace") for spec in signature.inputs]
        self._max_json_bytes = max_json_bytes

    def decode(self, body: Buffer) -> tuple[InferRequest, GeneratePlan]:
        """Return the request and how to answer it. Raises InvalidArgument (and below) in the words of Triton."""
        given = _Given(bytes(body))
        id = ""
        for key, value in self._read(given.text):
            if key == "id":
                if value is not None and type(value) is not str:
                    raise DecodeError("Unable to parse 'id': attempt to access JSON non-string as string")
                id = value or ""
            elif key == "parameters":
                self._take_nested(given, value)
            else:
                self._take(given, key, value)
        told = control.read(given.parameters)
        accepted = self._contract.accept(tuple(given.names), tuple(given.labels), tuple(given.shapes), (), told.parameters)
        layout = accepted.layout_of(tuple(len(b) for b in given.buffers))
        buffers = given.buffers if accepted.order is None else [given.buffers[i] for i in accepted.order]
        request = InferRequest(self.model, self.version, layout, buffers, id, 0.0, told.priority, told.timeout_us)
        return self._of(request, told.step), GeneratePlan(id)

    def _of(self, request: InferRequest, step: Step | None) -> InferRequest:
        """Return the request as the model needs it: sequences count for those that keep them."""
        return request

    def encode(self, plan: GeneratePlan, response: InferResponse) -> bytes:
        """Return one answer as a JSON object. Raises ModelFailed, and InvalidArgument for tensors that JSON cannot say."""
        layout = response.layout
        if layout is None:
            raise ModelFailed("the model answered without outputs")
        names = {tensor.name for tensor in layout.tensors}
        fields: dict[str, Any] = {key: value for key, value in layout.parameters if key not in names}
        if plan.id:
            fields["id"] = plan.id
        fields["model_name"] = self.model
        fields["model_version"] = self.version
        parts = [orjson.dumps(fields)[:-1]]
        view = memoryview(response.payload) if layout.payload_bytes else _NO_DATA
        at = 0
        for tensor in layout.tensors:
            text = json_tensor.encode(tensor.dtype, view[at : at + tensor.nbytes], tensor.name)
            at += tensor.nbytes
            parts += (b",", orjson.dumps(tensor.name), b":", text[1:-1] if element_count(tensor.shape) == 1 else text)
        parts.append(b"}")
        return b"".join(parts)

    def _read(self, body: bytes) -> Iterable[tuple[str, Any]]:
        """Return keys and values in the order of the body."""
        if not body:
            raise DecodeError("request JSON is empty")
        if len(body) > self._max_json_bytes:
            raise InvalidArgument(
                f"request JSON size of {len(body)} bytes exceeds the maximum allowed input size of {self._max_json_bytes} bytes"
            )
        document = parse(body)
        if type(document) is not dict:
            raise DecodeError("failed to parse the request JSON buffer: the document is not an object")
        if any(body.count(name) > 1 for name in self._names):  # perhaps a key that comes twice, of which a dict has the last
            pairs: _Pairs = json.loads(body, object_pairs_hook=_Pairs)
            return pairs
        return document.items()

    def _take_nested(self, given: _Given, value: Any) -> None:
        pairs = value.items() if type(value) is dict else value
        if type(value) not in (dict, _Pairs):
            raise InvalidArgument("Expected JSON object for keyword: 'parameters'")
        for key, inner in pairs:
            try:
                self._take(given, key, inner)
            except ServingError as error:
                raise InvalidArgument(f"Converting keyword: 'parameters': {error.message}") from None

    def _take(self, given: _Given, key: str, value: Any) -> None:
        known = self._inputs.get(key)
        if known is None:
            if value is None or isinstance(value, (dict, list)):
                raise InvalidArgument(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")
            given.parameters[key] = value
            return
        if key in given.names:
            raise InvalidArgument(f"input '{key}' already exists in request")
        spec, shape = known
        if spec.dtype.label in json_tensor.BINARY_ONLY:
            raise json_tensor.binary_only_input(spec.dtype.label, key)
        flat = json_tensor.flat(value if type(value) is list else [value])
        given.names.append(key)
        given.labels.append(spec.dtype.label)
        given.buffers.append(json_tensor.decode(flat, spec.dtype, len(flat), key, given.text))
        given.shapes.append(_fit(spec, shape, len(flat)))


def _fit(spec: TensorSpec, declared: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the declared shape with its innermost open dimension as large as the elements make it, the other open ones 1."""
    shape = [1 if d == ANY else d for d in declared]
    fixed = element_count(tuple(shape))
    opened = [i for i, d in enumerate(declared) if d == ANY]
    if opened and not count % fixed:
        shape[opened[-1]] = count // fixed
    elif count != fixed:
        raise InvalidArgument(f"{count} elements of input '{spec.name}' do not fit its shape {shape_text(declared)}")
    return tuple(shape)
