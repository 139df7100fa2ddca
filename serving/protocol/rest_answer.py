"""RestAnswer: how a prediction is written for requests that want it the same way."""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping
from typing import Any, Final

import orjson

from serving.errors import ModelFailed
from serving.inference import Buffer, InferResponse, Layout
from serving.protocol import json_tensor
from serving.tensor import DType, Signature

_KEPT_HEADS: Final = 64
_Piece = tuple[str, DType, int, int, bool | None]
id_of = id  # the builtin, beside arguments that are called id as in the protocol


class _Head:
    """The JSON of an answer for one layout, cut where JSON tensors go in.

    texts    pieces of JSON; a JSON tensor goes between each two
    length   of the JSON where all outputs are binary; -1 when no tensor bytes follow
    whole    the payload follows the JSON as it is
    pieces   per output: (name, datatype, start, stop, binary); binary None: its data are elsewhere
    """

    __slots__ = ("layout", "length", "pieces", "texts", "whole")

    def __init__(self, layout: Layout, texts: list[bytes], pieces: list[_Piece]) -> None:
        self.layout = layout
        self.texts = texts
        self.pieces = pieces
        spans = [(start, stop) for _, _, start, stop, binary in pieces if binary]
        self.length = len(texts[0]) if any(stop > start for start, stop in spans) else -1
        ends = [0, *[stop for _, stop in spans]]
        starts = [*[start for start, _ in spans], layout.payload_bytes]
        self.whole = self.length >= 0 and len(texts) == 1 and ends == starts


class RestAnswer:
    """Outputs in model order, each with whether it is wanted binary. Keeps the JSON per layout of the response."""

    __slots__ = ("_heads", "_opening", "_outputs", "json")

    def __init__(self, model: str, version: str, outputs: tuple[tuple[str, bool | None], ...]) -> None:
        self._outputs = outputs
        self.json = any(binary is False for _, binary in outputs)
        """Some tensors are written as text."""
        self._opening = b'{"model_name":' + orjson.dumps(model) + b',"model_version":' + orjson.dumps(version)
        self._heads: dict[int, _Head] = {}  # by id(): the head holds its layout, so the id is not used again

    @classmethod
    def make(
        cls,
        model: str,
        version: str,
        signature: Signature,
        wanted: Mapping[str, bool | None],
        all_binary: bool,
        classes: Container[str] = (),
    ) -> RestAnswer:
        """Return the answer for these outputs (none = all). `classes`: outputs that come as text instead.

        Raises InvalidArgument where JSON cannot carry one.
        """
        outputs: list[tuple[str, bool | None]] = []
        for spec in signature.outputs:
            if wanted and spec.name not in wanted:
                continue
            binary = wanted[spec.name] if wanted else all_binary
            if binary is False and spec.name not in classes and spec.dtype.label in json_tensor.BINARY_ONLY:
                raise json_tensor.binary_only_output(spec.dtype, spec.name)
            outputs.append((spec.name, binary))
        return cls(model, version, tuple(outputs))

    def write(self, id: str, response: InferResponse) -> tuple[list[Buffer], int | None]:
        """Return the body's parts and the value of Inference-Header-Content-Length (None: no header, it is plain JSON)."""
        layout = response.layout
        head = self._heads.get(id_of(layout))
        if head is None:
            if layout is None:
                raise ModelFailed("the model answered without outputs")
            head = self._prepare(layout)
        text = head.texts[0]
        if id:
            text = b'{"id":' + orjson.dumps(id) + b"," + text[1:]
        if head.whole:
            return [text, response.payload], len(text)
        return _assemble(head, text, response.payload)

    def write_slices(self, id: str, response: InferResponse) -> Generator[None, None, tuple[list[Buffer], int | None]]:
        """Return what `write` does; yields where others may have their turn."""
        layout = response.layout
        if layout is None:
            raise ModelFailed("the model answered without outputs")
        head = self._heads.get(id_of(layout)) or self._prepare(layout)
        view = memoryview(response.payload)
        written = []
        for name, dtype, start, stop, binary in head.pieces:
            if binary is False:
                written.append((yield from json_tensor.encode_slices(dtype, view[start:stop], name)))
        text = head.texts[0]
        if id:
            text = b'{"id":' + orjson.dumps(id) + b"," + text[1:]
        return _assemble(head, text, view, written)

    def _prepare(self, layout: Layout) -> _Head:
        places = {}
        at = 0
        for tensor in layout.tensors:
            places[tensor.name] = (tensor, at)
            at += tensor.nbytes
        texts = [self._opening]
        if layout.parameters:
            texts[0] += b',"parameters":' + orjson.dumps(dict(layout.parameters))
        texts[0] += b',"outputs":['
        pieces: list[_Piece] = []
        for name, binary in self._outputs:
            if name not in places:
                raise ModelFailed(f"the model did not return the output '{name}'")
            tensor, at = places[name]
            fields: dict[str, Any] = {"name": name, "datatype": tensor.dtype.label, "shape": tensor.shape}
            if binary:
                fields["parameters"] = {"binary_data_size": tensor.nbytes}
            texts[-1] += (b"," if pieces else b"") + orjson.dumps(fields)
            if binary is False:
                texts[-1] = texts[-1][:-1] + b',"data":'
                texts.append(b"}")
            pieces.append((name, tensor.dtype, at, at + tensor.nbytes, binary))
        texts[-1] += b"]}"
        head = _Head(layout, texts, pieces)
        if len(self._heads) >= _KEPT_HEADS:
            self._heads.clear()
        self._heads[id_of(layout)] = head
        return head

    def __repr__(self) -> str:
        return f"RestAnswer({', '.join(n + (' binary' if b else '') for n, b in self._outputs)})"


def _assemble(head: _Head, text: bytes, payload: Buffer, written: list[bytes] | None = None) -> tuple[list[Buffer], int | None]:
    """Return the body's parts. `written`: the JSON tensors, where they have been written before."""
    view = memoryview(payload)
    ready = iter(written) if written is not None else None
    texts = [text]
    tensors: list[Buffer] = []
    behind = iter(head.texts[1:])
    for name, dtype, start, stop, binary in head.pieces:
        if binary:
            tensors.append(view[start:stop])
        elif binary is False:
            texts.append(json_tensor.encode(dtype, view[start:stop], name) if ready is None else next(ready))
            texts.append(next(behind))
    document = b"".join(texts)
    if head.length < 0:
        return [document], None
    return [document, *tensors], len(document)
