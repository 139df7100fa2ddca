"""Files of inputs, and of the outputs that are expected for them: .npy, .npz, .json, .parquet.

    .npy       one array, for the only tensor
    .npz       arrays by the names of tensors
    .parquet   columns by the names of tensors; a row of the table is a row, a list in it may be flat
    .json      {"x": [row, row, …], …}                                       arrays by name
               {"data": [{"x": [1, 2]}, {"x": {"content": […], "shape": […]}}]}    rows, as perf_analyzer has them
               {"inputs": [{"name", "shape", "datatype", "data"}]}, or a list of them    whole requests, as REST has them

An array has either the shape of one row, or one dimension more, which counts rows.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from serving.bench.inputs import Array, Row, Sample, Tensor, as_dtype, fits
from serving.errors import InvalidArgument
from serving.tensor import DType, TensorSpec, element_count

ENDINGS = (".npy", ".npz", ".json", ".parquet")


def read_rows(path: Path, specs: Sequence[TensorSpec], batched: bool) -> list[Row]:
    """Return the rows that a file holds for those tensors. Raises InvalidArgument; names are not checked."""
    columns: Mapping[str, Any]
    match path.suffix:
        case ".npy":
            if len(specs) != 1:
                raise InvalidArgument(f"{path}: an .npy file is one array, and there are {len(specs)} tensors; use .npz with their names")
            columns = {specs[0].name: _numpy(path)}
        case ".npz":
            columns = _numpy(path)
        case ".parquet":
            columns = _parquet(path)
        case ".json":
            said = read_json(path)
            if isinstance(said, dict) and isinstance(said.get("data"), list) and all(isinstance(row, dict) for row in said["data"]):
                return [{name: _content(path, name, value) for name, value in row.items()} for row in said["data"]]
            if isinstance(said, list) and len(specs) == 1:
                said = {specs[0].name: said}
            if not isinstance(said, dict):
                raise InvalidArgument(f"{path}: expected an object with arrays by name, rows under 'data', or whole requests")
            columns = {name: _array(path, name, value) for name, value in said.items()}
        case _:
            raise InvalidArgument(f"{path}: expected a file that ends with {', '.join(ENDINGS)}")
    shapes = {spec.name: spec.shape[1:] if batched else spec.shape for spec in specs}
    one_row = {name for name, array in columns.items() if name in shapes and fits(array.shape, shapes[name])}
    return _rows(path, columns, set() if path.suffix == ".parquet" else one_row)


def _rows(path: Path, columns: Mapping[str, Array], one_row: set[str]) -> list[Row]:
    """Return rows of columns; a column that is one row is one for all."""
    single = {name: array for name, array in columns.items() if name in one_row or not array.ndim}
    many = {name: array for name, array in columns.items() if name not in single}
    counts = {name: len(array) for name, array in many.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InvalidArgument(f"{path}: tensors have different numbers of rows: {said}")
    count = next(iter(counts.values()), 1)
    return [{**single, **{name: np.asarray(array[i]) for name, array in many.items()}} for i in range(count)]


def whole_requests(path: Path, specs: Sequence[TensorSpec], side: str = "inputs") -> list[Sample] | None:
    """Return the requests (side "outputs": the answers) that a JSON file holds as REST has them; None where it holds rows.

    The datatype that the model declares holds; where it declares none, the one that stands at the input.
    """
    if path.suffix != ".json":
        return None
    said = read_json(path)
    requests = said if isinstance(said, list) else [said]
    if not requests or not all(isinstance(r, dict) and isinstance(r.get(side), list) for r in requests):
        return None
    declared = {spec.name: spec for spec in specs}
    return [tuple(_tensor(path, item, declared) for item in request[side]) for request in requests]


def _tensor(path: Path, item: Any, declared: Mapping[str, TensorSpec]) -> Tensor:
    try:
        name, shape = str(item["name"]), tuple(int(d) for d in item["shape"])
        spec = declared.get(name) or TensorSpec(name, DType.of(item["datatype"]), shape)
        array = as_dtype(spec, _array(path, name, item["data"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"{path}: an input needs name, shape, datatype and data ({type(error).__name__}: {error})") from None
    if array.size != element_count(shape):
        raise InvalidArgument(f"{path}: input '{name}' has {array.size} elements and the shape {list(shape)}")
    return Tensor(name, spec.dtype, array.reshape(shape))


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises InvalidArgument."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from None


def _content(path: Path, name: str, value: Any) -> Array:
    """Return one row as perf_analyzer writes it: a list, {"content", "shape"}, or {"b64"}."""
    if not isinstance(value, dict):
        return _array(path, name, value)
    if "b64" in value:
        try:
            raw = base64.b64decode(value["b64"], validate=True)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{path}: '{name}' is not base64: {error}") from None
        row = np.empty((1,), dtype=np.object_)
        row[0] = raw
        return row
    array = _array(path, name, value.get("content"))
    shape = tuple(value.get("shape") or array.shape)
    if element_count(shape) != array.size:
        raise InvalidArgument(f"{path}: '{name}' has {array.size} elements and the shape {list(shape)}")
    return array.reshape(shape)


def _array(path: Path, name: str, value: Any) -> Array:
    try:
        array = np.array(value)
    except ValueError:
        raise InvalidArgument(f"{path}: the rows of '{name}' are not all of one length") from None
    if value is None or array.dtype.kind not in "biufU":
        raise InvalidArgument(f"{path}: '{name}' is not an array of numbers, booleans or texts")
    return array.astype(np.object_) if array.dtype.kind == "U" else array


def _numpy(path: Path) -> Any:
    """Return the array of an .npy file, or those of an .npz by name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from None


def _parquet(path: Path) -> dict[str, Array]:
    """Return the columns of a table; lists become a dimension. Needs pyarrow."""
    if find_spec("pyarrow") is None:
        raise InvalidArgument(f"{path}: reading Parquet needs pyarrow (pip install 'serving[parquet]')")
    # By name, as models/registry.py does: 40 MB that only this file ending needs.
    parquet = import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from None
    return {name: _array(path, name, table.column(name).to_pylist()) for name in table.column_names}
