"""GrpcAnswer: how a prediction is written as a ModelInferResponse, the tensors joined to the head by hand."""

from __future__ import annotations

from typing import Any, Final

from serving.errors import ModelFailed
from serving.inference import Buffer, InferResponse, Layout, ParameterValue
from serving.protocol.protobuf import varint
from serving.protocol.schema import ModelInferResponse

_KEPT_HEADS: Final = 64
_RAW: Final = b"\x32"
_ID: Final = b"\x1a"
id_of = id  # the builtin, beside arguments that are called id as in the protocol


class _Head:
    """The message for one layout: `opening` up to the first tensor's bytes, then `pieces`: (start, stop, bytes behind)."""

    __slots__ = ("layout", "opening", "pieces", "whole")

    def __init__(self, layout: Layout, opening: bytes, spans: list[tuple[int, int]]) -> None:
        self.layout = layout
        tags = [_RAW + varint(stop - start) for start, stop in spans]
        self.opening = opening + (tags[0] if tags else b"")
        self.whole = spans == [(0, layout.payload_bytes)]
        self.pieces = [(start, stop, tag) for (start, stop), tag in zip(spans, [*tags[1:], b""], strict=True)]


class GrpcAnswer:
    """Outputs in model order. Keeps the head per layout of the response."""

    __slots__ = ("_heads", "_model", "_outputs", "_version", "empty_final")

    def __init__(self, model: str, version: str, outputs: tuple[str, ...], empty_final: bool = False) -> None:
        """empty_final: after the last of several answers the client wants an empty one."""
        self.empty_final = empty_final
        self._model = model
        self._version = version
        self._outputs = outputs
        self._heads: dict[int, _Head] = {}  # by id(): the head holds its layout, so the id is not used again

    def write(self, id: str, response: InferResponse) -> list[Buffer]:
        """Return the parts of the message. Raises ModelFailed where the response lacks an output."""
        layout = response.layout
        head = self._heads.get(id_of(layout))
        if head is None:
            if layout is None:
                raise ModelFailed("the model answered without outputs")
            head = self._prepare(layout)
        opening = head.opening
        if id:
            raw = id.encode()
            opening = _ID + varint(len(raw)) + raw + opening  # the order of fields is free
        if head.whole:
            return [opening, response.payload]
        parts: list[Buffer] = [opening]
        view = memoryview(response.payload)
        for start, stop, behind in head.pieces:
            parts.append(view[start:stop])
            parts.append(behind)
        return parts

    def _prepare(self, layout: Layout) -> _Head:
        places = {}
        at = 0
        for tensor in layout.tensors:
            places[tensor.name] = (tensor, at)
            at += tensor.nbytes
        message = ModelInferResponse(model_name=self._model, model_version=self._version)
        for key, value in layout.parameters:
            set_parameter(message.parameters[key], value)
        spans = []
        for name in self._outputs:
            if name not in places:
                raise ModelFailed(f"the model did not return the output '{name}'")
            tensor, start = places[name]
            message.outputs.add(name=name, datatype=tensor.dtype.label, shape=tensor.shape)
            spans.append((start, start + tensor.nbytes))
        head = _Head(layout, message.SerializeToString(), spans)
        if len(self._heads) >= _KEPT_HEADS:
            self._heads.clear()
        self._heads[id_of(layout)] = head
        return head

    def __repr__(self) -> str:
        return f"GrpcAnswer({', '.join(self._outputs)})"


def set_parameter(parameter: Any, value: ParameterValue) -> None:
    """Put a value into an InferParameter."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        if value < 1 << 63:
            parameter.int64_param = value
        else:
            parameter.uint64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value
