"""Inputs of requests: which shapes a model gets, and tensors of those shapes, random or from rows that a file holds.

Random numbers come from a seed, so that two runs send the same bytes.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from serving.bench.target import ModelInfo
from serving.errors import InvalidArgument
from serving.spec.explain import nearest
from serving.tensor import ANY, DType, TensorSpec, element_count

Array = np.ndarray[Any, Any]
Row = Mapping[str, Array]
"""One row of each input, by name; without the batch dimension where the model has one."""

MAX_BYTES = 64 << 20
"""Different random bodies are made up to this size together; more of them would only empty the generator's caches."""
MAX_INTEGER = 100
"""Random integers are small: most are indices or counts, and a model may fail on others."""
TEXT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of one request. BYTES arrays hold `bytes` objects."""

    name: str
    dtype: DType
    array: Array


Sample = tuple[Tensor, ...]
"""The inputs of one request, in the order of the model."""


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return name and sizes of `x:3,224,224` (perf_analyzer's way of writing it). Raises InvalidArgument."""
    name, colon, sizes = text.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        shape = (0,)
    if not name or not colon or any(size < 1 for size in shape):
        raise InvalidArgument(f"'{text}' is not a shape: expected NAME:SIZE,SIZE,… such as x:3,224,224")
    return name, shape


def settle(info: ModelInfo, shapes: Mapping[str, Sequence[int]], batch_size: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input of a request, in which every size is known.

    shapes: sizes by input, with or without the batch dimension. Raises InvalidArgument for sizes that are missing, that do not
    fit what the model says, and for a batch that it cannot take.
    """
    if not info.inputs:
        raise InvalidArgument(f"the server does not say what model '{info.name}' takes; give whole requests by --input FILE.json")
    _check_names(info, shapes)
    if batch_size > 1 and not info.batched:
        raise InvalidArgument(f"model '{info.name}' has no batch dimension ({_declared(info)}), so --batch-size must be 1")
    if info.max_batch_size and batch_size > info.max_batch_size:
        raise InvalidArgument(f"model '{info.name}' takes up to {info.max_batch_size} rows in a request, --batch-size is {batch_size}")
    return {spec.name: _settle(info, spec, shapes.get(spec.name), batch_size) for spec in info.inputs if not spec.optional}


def _settle(info: ModelInfo, spec: TensorSpec, given: Sequence[int] | None, batch_size: int) -> tuple[int, ...]:
    declared = spec.shape
    if given is not None:
        whole = tuple(given) if len(given) == len(declared) else (batch_size, *given)
        if not fits(whole, declared):
            raise InvalidArgument(f"--shape {spec.name}:{_sizes(given)} does not fit model '{info.name}': {_declared(info)}")
        return whole
    whole = (batch_size, *declared[1:]) if info.batched else declared
    if ANY in whole:
        rest = whole[1:] if info.batched else whole
        example = ",".join("8" if d == ANY else str(d) for d in rest)
        raise InvalidArgument(
            f"model '{info.name}' takes any size in some dimensions ({_declared(info)}): say which to send, --shape {spec.name}:{example}"
        )
    return whole


def random_samples(info: ModelInfo, shapes: Mapping[str, tuple[int, ...]], count: int, seed: int) -> list[Sample]:
    """Return up to `count` different requests (see MAX_BYTES), at least one. Floats are in [0, 1), integers in [0, MAX_INTEGER)."""
    random = np.random.default_rng(seed)
    specs = [spec for spec in info.inputs if spec.name in shapes]
    size = sum(element_count(shapes[s.name]) * (s.dtype.itemsize or TEXT_BYTES + 4) for s in specs)
    count = max(1, min(count, MAX_BYTES // max(1, size)))
    return [tuple(Tensor(s.name, s.dtype, _random(random, s.dtype, shapes[s.name])) for s in specs) for _ in range(count)]


def _random(random: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> Array:
    match dtype:
        case DType.FP32 | DType.FP64:
            return random.random(shape, dtype=dtype.numpy)
        case DType.FP16 | DType.BF16:
            return random.random(shape, dtype=np.float32).astype(dtype.numpy)
        case DType.BOOL:
            return random.integers(0, 2, shape).astype(np.bool_)
        case DType.BYTES:
            array = np.empty(shape, dtype=np.object_)
            letters = np.frombuffer(string.ascii_lowercase.encode(), np.uint8)
            text = letters[random.integers(0, len(letters), (array.size, TEXT_BYTES))]
            array.reshape(-1)[:] = [row.tobytes() for row in text]
            return array
        case _:
            return random.integers(0, MAX_INTEGER, shape).astype(dtype.numpy)


def batches(info: ModelInfo, rows: Sequence[Row], batch_size: int, limit: int) -> list[Sample]:
    """Return requests made of rows: `batch_size` rows each where the model has a batch dimension, else one each.

    Rows that do not fill a request are left out, unless there is no other. Raises InvalidArgument for rows that do not fit the model.
    """
    if not rows:
        raise InvalidArgument("the file of inputs holds no rows")
    if batch_size > 1 and not info.batched:
        raise InvalidArgument(f"model '{info.name}' has no batch dimension ({_declared(info)}), so --batch-size must be 1")
    size = batch_size if info.batched else 1
    starts = range(0, max(1, len(rows) - size + 1), size)[:limit]
    return [_sample(info, rows[start : start + size]) for start in starts]


def _sample(info: ModelInfo, rows: Sequence[Row]) -> Sample:
    tensors = []
    _check_names(info, rows[0])
    for spec in info.inputs:
        if spec.name not in rows[0]:
            if spec.optional:
                continue
            raise InvalidArgument(f"the file of inputs has no '{spec.name}', which model '{info.name}' takes ({_declared(info)})")
        parts = [_fitted(info, spec, row[spec.name]) for row in rows]
        if info.batched and any(part.shape != parts[0].shape for part in parts):
            raise InvalidArgument(f"'{spec.name}': rows of different shapes cannot be joined; give --batch-size 1")
        tensors.append(Tensor(spec.name, spec.dtype, np.stack(parts) if info.batched else parts[0]))
    return tuple(tensors)


def _fitted(info: ModelInfo, spec: TensorSpec, array: Array) -> Array:
    declared = spec.shape[1:] if info.batched else spec.shape
    if not fits(array.shape, declared):
        if element_count(declared) == array.size:  # flat rows, as tables have them
            return as_dtype(spec, array.reshape(declared))
        raise InvalidArgument(
            f"'{spec.name}': a row of the file has the shape [{_sizes(array.shape)}], not that of '{info.name}': {_declared(info)}"
        )
    return as_dtype(spec, array)


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Say whether a shape is one that was declared; -1 there is any size."""
    return len(shape) == len(declared) and all(d in (ANY, s) for d, s in zip(declared, shape, strict=True))


def as_dtype(spec: TensorSpec, array: Array) -> Array:
    """Return the array with the numbers of the tensor's datatype. Raises InvalidArgument where that would lose more than precision."""
    dtype = spec.dtype
    if dtype is DType.BYTES:
        texts = np.empty(array.shape, dtype=np.object_)
        texts.reshape(-1)[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        return texts
    floats = (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
    same = array.dtype in floats and dtype.numpy in floats
    wider = array.dtype.kind in "iub" and dtype.numpy in floats
    if same or wider:
        return array.astype(dtype.numpy)
    if array.dtype.kind in "iu" and dtype.numpy.kind in "iu":
        limits = np.iinfo(dtype.numpy)
        if array.size == 0 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max):
            return array.astype(dtype.numpy)
        raise InvalidArgument(f"'{spec.name}': numbers from {array.min()} to {array.max()} do not fit {dtype.label}")
    if array.dtype == dtype.numpy:
        return array
    raise InvalidArgument(f"'{spec.name}': numbers of type {array.dtype} cannot be sent as {dtype.label}")


def _check_names(info: ModelInfo, given: Mapping[str, Any]) -> None:
    known = [spec.name for spec in info.inputs]
    for name in given:
        if name not in known:
            near = nearest(name, known)
            among = f"did you mean '{near}'?" if near else f"it has {', '.join(known)}"
            raise InvalidArgument(f"model '{info.name}' has no input '{name}'; {among}")


def _declared(info: ModelInfo) -> str:
    return "it has " + ", ".join(f"{s.name} {s.dtype.label}[{_sizes(s.shape)}]" for s in info.inputs)


def _sizes(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))
