"""Contract: holds what a request declares against the signature of the version. Shared by REST and gRPC.

The order of the checks and their texts are protocol (clients compare them): unknown names, outputs, count, batch
dimension, datatype, shape; sizes come last (`size_mismatch` and `check_bytes_tensor`, called by the codecs, last input first).
A form that has passed is kept, so that the next request of that form costs one dict look-up and gets the very same Layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from serving.errors import InvalidArgument, SignatureMismatch
from serving.inference import Buffer, Layout, ParameterValue, TensorLayout
from serving.protocol.recent import Recent
from serving.tensor import ANY, DType, Signature, TensorSpec, element_count

MAX_ELEMENTS: Final = (1 << 63) - 1
_LENGTH: Final = Struct("<I")
_ITEMSIZE: Final = {d.label: d.itemsize for d in DType}

Parameters = tuple[tuple[str, ParameterValue], ...]


class Accepted:
    """Inputs of one form that fit the signature. Sequences are in the order of the request.

    sizes   bytes on the wire; -1 for BYTES, where only the data tell
    order   positions of the inputs in payload order (that of the model); None where the request has that order already
    layout  None where an input is BYTES: then `layout_of` makes it from the sizes
    """

    __slots__ = ("_layouts", "counts", "layout", "order", "outputs", "parameters", "rows", "shapes", "sizes", "specs")

    def __init__(
        self,
        specs: tuple[TensorSpec, ...],
        shapes: tuple[tuple[int, ...], ...],
        order: tuple[int, ...] | None,
        outputs: tuple[str, ...],
        parameters: Parameters,
        rows: int,
    ) -> None:
        self.specs = specs
        self.shapes = shapes
        self.order = order
        self.outputs = outputs
        self.parameters = parameters
        self.rows = rows
        self.counts = tuple(element_count(s) for s in shapes)
        self.sizes = tuple(c * s.dtype.itemsize if s.dtype is not DType.BYTES else -1 for c, s in zip(self.counts, specs, strict=True))
        self._layouts: Recent[tuple[int, ...], Layout] = Recent(64)
        self.layout: Layout | None = None
        if -1 not in self.sizes:
            self.layout = self._make(self.sizes)

    def layout_of(self, sizes: tuple[int, ...]) -> Layout:
        """Return the layout for these sizes in bytes (order of the request); the same object for the same sizes."""
        if self.layout is not None:
            return self.layout
        layout = self._layouts.find(sizes)
        if layout is None:
            layout = self._make(sizes)
            self._layouts.keep(sizes, layout)
        return layout

    def _make(self, sizes: tuple[int, ...]) -> Layout:
        tensors = [TensorLayout(s.name, s.dtype, d, n) for s, d, n in zip(self.specs, self.shapes, sizes, strict=True)]
        ordered = tensors if self.order is None else [tensors[i] for i in self.order]
        return Layout(tuple(ordered), self.outputs, self.parameters, self.rows)

    def __repr__(self) -> str:
        return f"Accepted({', '.join(f'{s.name} {shape_text(d)}' for s, d in zip(self.specs, self.shapes, strict=True))})"


class Contract:
    """The signature of one served version, ready to check requests against."""

    __slots__ = ("_inputs", "_known", "_outputs", "_required", "model", "signature", "version")

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        self.model = model
        self.version = version
        self.signature = signature
        self._inputs = {s.name: (i, s) for i, s in enumerate(signature.inputs)}
        self._outputs = {s.name: i for i, s in enumerate(signature.outputs)}
        self._required = [s.name for s in signature.inputs if not s.optional]
        self._known: Recent[tuple[object, ...], Accepted] = Recent(256)

    def accept(
        self,
        names: tuple[str, ...],
        labels: tuple[str, ...],
        shapes: tuple[tuple[int, ...], ...],
        outputs: tuple[str, ...] = (),
        parameters: Parameters = (),
    ) -> Accepted:
        """Return the checked form. Dimensions must be plain ints (True and 1.0 equal 1 as keys). Raises InvalidArgument."""
        # The types stand in the key because 1, 1.0 and True are one key but three parameters.
        key = (names, labels, shapes, outputs, parameters, tuple([type(v) for _, v in parameters]) if parameters else ())
        accepted = self._known.find(key)
        if accepted is None:
            accepted = self._check(names, labels, shapes, outputs, parameters)
            self._known.keep(key, accepted)
        return accepted

    def _check(
        self,
        names: tuple[str, ...],
        labels: tuple[str, ...],
        shapes: tuple[tuple[int, ...], ...],
        outputs: tuple[str, ...],
        parameters: Parameters,
    ) -> Accepted:
        for name, label, shape in zip(names, labels, shapes, strict=True):
            check_declared(name, label, shape)
        specs = self._specs(names)
        wanted = self._wanted(outputs)
        self._check_count(names)
        rows = self._rows(names, specs, shapes)
        for name, label, spec in zip(names, labels, specs, strict=True):
            if label != spec.dtype.label:
                raise SignatureMismatch(
                    f"inference input '{name}' data-type is '{label}', but model '{self.model}' expects '{spec.dtype.label}'"
                )
        for name, spec, shape in zip(names, specs, shapes, strict=True):
            self._check_shape(name, spec, shape)
        positions = [self._inputs[n][0] for n in names]
        order = tuple(sorted(range(len(positions)), key=positions.__getitem__))
        ordered = order == tuple(range(len(order)))
        return Accepted(specs, shapes, None if ordered else order, wanted, parameters, rows)

    def _specs(self, names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
        seen: set[str] = set()
        specs = []
        for name in names:
            known = self._inputs.get(name)
            if known is None:
                raise SignatureMismatch(f"unexpected inference input '{name}' for model '{self.model}'")
            if name in seen:
                raise SignatureMismatch(f"input '{name}' already exists in request")
            seen.add(name)
            specs.append(known[1])
        return tuple(specs)

    def _wanted(self, outputs: tuple[str, ...]) -> tuple[str, ...]:
        seen: set[str] = set()
        for name in outputs:
            if name not in self._outputs:
                raise SignatureMismatch(f"unexpected inference output '{name}' for model '{self.model}'")
            if name in seen:
                raise SignatureMismatch(
                    f"output '{name}' already exists in request. Duplicate output name '{name}' is not allowed in a request"
                )
            seen.add(name)
        return tuple(sorted(outputs, key=self._outputs.__getitem__))

    def _check_count(self, names: tuple[str, ...]) -> None:
        missing = [n for n in self._required if n not in names]
        if not missing:
            return
        total, needed = len(self._inputs), len(self._required)
        expected = f"expected {total} inputs" if total == needed else f"expected number of inputs between {needed} and {total}"
        raise SignatureMismatch(
            f"{expected} but got {len(names)} inputs for model '{self.model}'. Got input(s) [{_quoted(names)}], "
            f"but missing required input(s) [{_quoted(missing)}]. Please provide all required input(s)."
        )

    def _rows(self, names: tuple[str, ...], specs: tuple[TensorSpec, ...], shapes: tuple[tuple[int, ...], ...]) -> int:
        limit = self.signature.max_batch_size
        if not limit:
            return 1
        rows = -1
        for name, spec, shape in zip(names, specs, shapes, strict=True):
            if not shape:
                raise SignatureMismatch(f"input '{name}' has no shape but model requires batch dimension for '{self.model}'")
            if shape[0] < 0:
                raise self._unexpected_shape(name, spec, shape)
            if rows == -1:
                rows = shape[0]
            elif shape[0] != rows:
                raise SignatureMismatch(f"input '{name}' batch size does not match other inputs for '{self.model}'")
        if rows > limit:
            raise SignatureMismatch(f"inference request batch-size must be <= {limit} for '{self.model}'")
        if rows == 0:
            raise SignatureMismatch(f"inference request batch-size must be >= 1 for '{self.model}'")
        return max(rows, 1)

    def _check_shape(self, name: str, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        expected = self.signature.wire_shape(spec)
        if len(shape) != len(expected):
            raise self._unexpected_shape(name, spec, shape)
        for have, want in zip(shape, expected, strict=True):
            if have < 0 or (want != ANY and have != want):
                raise self._unexpected_shape(name, spec, shape)

    def _unexpected_shape(self, name: str, spec: TensorSpec, shape: tuple[int, ...]) -> SignatureMismatch:
        note = " NOTE: this model takes batches, so the first dimension is the batch size." if self.signature.batched else ""
        return SignatureMismatch(
            f"unexpected shape for input '{name}' for model '{self.model}'. "
            f"Expected {shape_text(self.signature.wire_shape(spec))}, got {shape_text(shape)}.{note}"
        )

    def size_mismatch(self, name: str, expected: int, got: int) -> SignatureMismatch:
        """Return the error for a tensor that says it has another size than its shape asks for."""
        return SignatureMismatch(f"input byte size mismatch for input '{name}' for model '{self.model}'. Expected {expected}, got {got}")

    def check_bytes_tensor(self, data: Buffer, count: int, name: str) -> None:
        """Raise InvalidArgument unless the data hold exactly `count` length-prefixed elements."""
        end = len(data)
        at = n = 0
        where = f"for inference input '{name}' for model '{self.model}'"
        unpack = _LENGTH.unpack_from
        while at < end:
            if n == count:
                raise InvalidArgument(f"unexpected number of string elements {n + 1} {where}, expecting {count}")
            if at + 4 > end:
                raise InvalidArgument(f"incomplete string length indicator {where}, expecting 4 bytes but only {end - at} available")
            (size,) = unpack(data, at)
            at += 4 + size
            if at > end:
                raise InvalidArgument(
                    f"incomplete string data {where}, expecting string of length {size} but only {end - at + size} bytes available"
                )
            n += 1
        if n != count:
            raise InvalidArgument(f"expected {count} string elements {where}, got {n}")


def check_declared(name: str, label: str, shape: tuple[int, ...]) -> None:
    """Raise InvalidArgument for a datatype that does not exist or a shape that no memory can hold."""
    itemsize = _ITEMSIZE.get(label)
    if itemsize is None:
        raise InvalidArgument(f"invalid datatype for input {name}, expected one of {', '.join(_ITEMSIZE)}, got '{label}'")
    count = 1
    for dim in shape:
        if dim < 0:
            return  # the shape check names it
        count *= dim
        if count > MAX_ELEMENTS:
            raise InvalidArgument(f"shape of input '{name}' causes total element count to exceed maximum size of {MAX_ELEMENTS}")
    if count * itemsize > MAX_ELEMENTS:
        raise InvalidArgument(f"byte size overflow for input '{name}'")


def shape_text(shape: Sequence[int]) -> str:
    """Return `[-1,16]`."""
    return f"[{','.join(map(str, shape))}]"


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{n}'" for n in names)
