"""Joins the payloads of a batch to arrays, and splits what the model answers back by request.

Copies: a batch of one request becomes views of its payload (none); a batch of several is joined once per tensor (one).
Answers are slices of the model's own output (none), unless it is not contiguous (one for the whole batch).
Arrays that are not `own` are read-only, always, so that a model that writes into its inputs fails at warm-up and not now and then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from serving.batching.entry import Answer, Column, Entry
from serving.batching.reply import Parameters
from serving.errors import ModelFailed
from serving.inference import Buffer, Layout, TensorLayout
from serving.tensor import DType, Signature, TensorSpec, decode_bytes_tensor, encode_bytes_tensor

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Parts = tuple[Buffer, ...]

_MAX_ANSWERS = 1024


def join(entries: Sequence[Entry], rows: int, own: bool = False) -> Arrays:
    """Return the arrays of a batch: shape (rows, *tail) per tensor, or the plain shape where there is no batch dimension.

    own: the arrays are fresh, aligned and writable (what torch wants), else read-only and without a copy where there is one request.
    Raises InvalidArgument for BYTES that are malformed.
    """
    kind = entries[0].kind
    lead = (rows,) if kind.batched else ()
    columns = kind.columns
    if len(columns) == 1 and not columns[0].is_bytes:
        column = columns[0]
        shape = lead + column.tail
        if len(entries) == 1:
            return {column.name: _one(entries[0].payload, column, shape, own)}
        parts: list[Buffer] = [e.payload for e in entries]
        # bytearray and bytes join equally fast from some KB on; torch warns of memory that is not writable.
        data = bytearray().join(parts) if own else b"".join(parts)
        return {column.name: np.ndarray(shape, column.dtype, data)}
    return {c.name: _column(entries, i, c, lead + c.tail, own) for i, c in enumerate(columns)}


def _one(data: Buffer, column: Column, shape: tuple[int, ...], own: bool) -> Array:
    array: Array = np.ndarray(shape, column.dtype, bytearray(data) if own else data)
    if not own:
        if not array.flags.aligned:  # the payload began at an odd offset of its frame
            array = array.copy()
        array.flags.writeable = False
    return array


def _column(entries: Sequence[Entry], index: int, column: Column, shape: tuple[int, ...], own: bool) -> Array:
    if column.is_bytes:
        arrays = []
        for e in entries:
            c = e.kind.columns[index]
            arrays.append(decode_bytes_tensor(memoryview(e.payload)[c.start : c.stop], c.count, c.name))
        array = (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).reshape(shape)
        array.flags.writeable = own
        return array
    if len(entries) == 1:
        return _one(memoryview(entries[0].payload)[column.start : column.stop], column, shape, own)
    parts = []
    for e in entries:
        c = e.kind.columns[index]
        parts.append(memoryview(e.payload)[c.start : c.stop])
    return np.ndarray(shape, column.dtype, bytearray().join(parts) if own else b"".join(parts))


def zeros(signature: Signature, rows: int) -> Arrays:
    """Return inputs of zeros (BYTES: empty) as `join` would make them, for a warm-up. Dimensions of any size are 1."""
    arrays: Arrays = {}
    for spec in signature.inputs:
        shape = tuple(1 if d < 0 else d for d in spec.shape)
        if signature.batched:
            shape = (rows, *shape)
        if spec.dtype is DType.BYTES:
            array: Array = np.full(shape, b"", dtype=np.object_)
        else:
            array = np.zeros(shape, dtype=spec.dtype.numpy)
        array.flags.writeable = False
        arrays[spec.name] = array
    return arrays


class Splitter:
    """Checks a model's answers against its signature and cuts them by request. One per version."""

    def __init__(self, model: str, signature: Signature) -> None:
        self._model = model
        self._batched = signature.batched
        self._specs = signature.outputs
        self._answers: dict[tuple[Any, ...], Answer] = {}

    def split(
        self, outputs: Arrays, entries: Sequence[Entry], rows: int, parameters: Parameters = ()
    ) -> list[tuple[Answer, Parts]]:  # fmt: skip
        """Return per entry the layout of its answer and the buffers that make its payload, in the order of the signature.

        parameters: those that the model gives back with the batch; every entry gets them.

        Raises ModelFailed where the answer is not what the signature says: missing name, other datatype, other number
        of rows, other shape. Names that the signature does not have are left out.
        """
        pieces = self.check(outputs, rows)
        if parameters:
            return [self.pick(pieces, entry.kind.wants, row, entry.kind.rows, parameters) for row, entry in _first_rows(entries)]
        results: list[tuple[Answer, Parts]] = []
        if len(pieces) == 1 and pieces[0].flat is not None:
            piece = pieces[0]
            flat = piece.flat
            assert flat is not None
            row_bytes = piece.row_bytes
            answers: dict[int, Answer] = {}
            at = 0
            for entry in entries:
                count = entry.kind.rows
                answer = answers.get(count)
                if answer is None:
                    answer = answers[count] = self._answer(count, (0,), pieces)
                stop = at + count * row_bytes
                results.append((answer, (flat[at:stop],)))
                at = stop
            return results
        return [self.pick(pieces, entry.kind.wants, row, entry.kind.rows) for row, entry in _first_rows(entries)]

    def alone(self, outputs: Arrays, wants: tuple[str, ...], parameters: Parameters = ()) -> tuple[Answer, bytes]:
        """Return the answer that these outputs are alone, of all their rows, and a copy of its payload. Raises ModelFailed."""
        rows = 1
        if self._batched and isinstance(outputs, dict):
            first = outputs.get(self._specs[0].name)
            rows = first.shape[0] if isinstance(first, np.ndarray) and first.ndim else 1
        answer, parts = self.pick(self.check(outputs, rows), wants, 0, rows, parameters)
        return answer, b"".join(parts)

    def pick(
        self, pieces: Sequence[Piece], wants: tuple[str, ...], row: int, count: int, parameters: Parameters = ()
    ) -> tuple[Answer, Parts]:  # fmt: skip
        """Return the answer that `count` rows from `row` on make, with the outputs in `wants` (() = all)."""
        picked = tuple(i for i, spec in enumerate(self._specs) if not wants or spec.name in wants)
        parts = tuple([pieces[i].cut(row, count) for i in picked])
        if any(pieces[i].flat is None for i in picked):
            return self._make(count, picked, pieces, parts, parameters), parts
        return self._answer(count, picked, pieces, parameters), parts

    def check(self, outputs: Arrays, rows: int) -> list[Piece]:
        """Return one Piece per output of the signature. Raises ModelFailed."""
        if not isinstance(outputs, dict):
            raise ModelFailed(f"model '{self._model}' returned a {type(outputs).__name__}, expected a dict of numpy arrays by name")
        return [self._piece(spec, outputs, rows) for spec in self._specs]

    def _piece(self, spec: TensorSpec, outputs: Arrays, rows: int) -> Piece:
        array = outputs.get(spec.name)
        if array is None:
            raise ModelFailed(f"model '{self._model}' did not return output '{spec.name}', but {sorted(outputs)}")
        if not isinstance(array, np.ndarray):
            raise ModelFailed(f"output '{spec.name}' of model '{self._model}' is a {type(array).__name__}, expected a numpy array")
        dtype = spec.dtype
        is_bytes = dtype is DType.BYTES
        if (array.dtype.kind not in "OSU") if is_bytes else (array.dtype != dtype.numpy):
            wanted = "object, bytes or text" if is_bytes else dtype.numpy
            raise ModelFailed(
                f"output '{spec.name}' of model '{self._model}' has type {array.dtype}, but {dtype.label} ({wanted}) is declared"
            )
        shape = array.shape
        if self._batched:
            if not shape or shape[0] != rows:
                raise ModelFailed(f"output '{spec.name}' of model '{self._model}' has shape {list(shape)}, but the batch has {rows} rows")
            tail = shape[1:]
        else:
            tail = shape
        if tail != spec.shape and not _fits(tail, spec.shape):
            lead = [-1] if self._batched else []
            raise ModelFailed(
                f"output '{spec.name}' of model '{self._model}' has shape {list(shape)}, but {lead + list(spec.shape)} is declared"
            )
        if not is_bytes and not array.flags.c_contiguous:
            array = np.ascontiguousarray(array).reshape(shape)
        return Piece(array, tail, rows if self._batched else 1, is_bytes)

    def _answer(self, count: int, picked: tuple[int, ...], pieces: Sequence[Piece], parameters: Parameters = ()) -> Answer:
        key: tuple[Any, ...] = (count, picked, *[pieces[i].tail for i in picked])
        if parameters:
            key = (*key, repr(parameters))  # as text: 1, 1.0 and True are one key
        answer = self._answers.get(key)
        if answer is None:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            answer = self._answers[key] = self._make(count, picked, pieces, (), parameters)
        return answer

    def _make(
        self, count: int, picked: tuple[int, ...], pieces: Sequence[Piece], parts: Parts, parameters: Parameters
    ) -> Answer:  # fmt: skip
        tensors = []
        for n, i in enumerate(picked):
            spec = self._specs[i]
            piece = pieces[i]
            shape = (count, *piece.tail) if self._batched else piece.tail
            if piece.flat is None:
                tensors.append(TensorLayout(spec.name, spec.dtype, shape, len(parts[n])))
            else:
                tensors.append(TensorLayout(spec.name, spec.dtype, shape, count * piece.row_bytes))
        return Answer(Layout(tuple(tensors), parameters=parameters, rows=count))


class Piece:
    """One output of a whole batch. `flat` = its bytes, row after row; None for BYTES, which are encoded per request."""

    __slots__ = ("_array", "flat", "row_bytes", "tail")

    def __init__(self, array: Array, tail: tuple[int, ...], rows: int, is_bytes: bool) -> None:
        self._array = array
        self.tail = tail
        self.flat: memoryview | None = None
        self.row_bytes = array.nbytes // rows if rows else 0
        if not is_bytes:
            # through uint8: bfloat16 has no buffer protocol, and empty arrays cannot be cast
            self.flat = array.reshape(-1).view(np.uint8).data

    def cut(self, row: int, count: int) -> Buffer:
        """Return the bytes of `count` rows from `row` on."""
        if self.flat is not None:
            return self.flat[row * self.row_bytes : (row + count) * self.row_bytes]
        if self._array.ndim > len(self.tail):
            return encode_bytes_tensor(self._array[row : row + count])
        return encode_bytes_tensor(self._array)


def _first_rows(entries: Sequence[Entry]) -> Iterator[tuple[int, Entry]]:
    row = 0
    for entry in entries:
        yield row, entry
        row += entry.kind.rows


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(d in (-1, s) for s, d in zip(shape, declared, strict=True))
