"""A parsed ModelInferRequest, field by field: what it declares, before anything is held against the model."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from struct import Struct
from typing import Any, Final, cast

from serving.errors import InvalidArgument, SignatureMismatch
from serving.protocol import control
from serving.protocol.check import Accepted, Contract
from serving.protocol.json_tensor import ARRAY_CODE
from serving.protocol.special import Region
from serving.tensor import TensorSpec

_CONTENTS: Final = {
    "bool_contents": ("BOOL",),
    "int_contents": ("INT8", "INT16", "INT32"),
    "int64_contents": ("INT64",),
    "uint_contents": ("UINT8", "UINT16", "UINT32"),
    "uint64_contents": ("UINT64",),
    "fp32_contents": ("FP32",),
    "fp64_contents": ("FP64",),
    "bytes_contents": ("BYTES",),
}
_LENGTH: Final = Struct("<I")
_EMPTY_FINAL: Final = "triton_enable_empty_final_response"
_ALLOWED: Final = (_EMPTY_FINAL,)
_KINDS: Final = {
    "sequence_id": (("int64_param", "uint64_param", "string_param"), "int64_param or string_param"),
    "sequence_start": (("bool_param",), "bool_param"),
    "sequence_end": (("bool_param",), "bool_param"),
    "priority": (("int64_param", "uint64_param"), "int64_param or uint64_param"),
    "timeout": (("int64_param", "uint64_param"), "int64_param"),
    _EMPTY_FINAL: (("bool_param",), "bool_param"),
}
"""What the server's own parameters may be, and how that is said."""


class Declared:
    """Names, datatypes, shapes, outputs and parameters of a message.

    contents  typed data per input, or None
    shared    the region of an input that lies in one, or None
    classes, regions  of those outputs that are wanted so, by name
    """

    __slots__ = ("classes", "contents", "control", "empty_final", "labels", "names", "outputs", "regions", "shapes", "shared")

    def __init__(self, message: Any) -> None:
        """Read a ModelInferRequest. Raises InvalidArgument and Unsupported."""
        values = _values(message.parameters) if message.parameters else {}
        if values:
            _check_own(message.parameters)
        self.control = control.read(values, _ALLOWED) if values else control.NONE
        self.empty_final: bool = values.get(_EMPTY_FINAL, False) is True
        """The client wants to be told by a message of its own that a decoupled model has no more answers."""
        inputs = list(message.inputs)
        self.names: tuple[str, ...] = tuple([i.name for i in inputs])
        self.labels: tuple[str, ...] = tuple([i.datatype for i in inputs])
        self.shapes: tuple[tuple[int, ...], ...] = tuple([tuple(i.shape) for i in inputs])
        self.contents: list[Any] = [i.contents if i.HasField("contents") else None for i in inputs]
        self.shared = [_region(item) if item.parameters and "shared_memory_region" in item.parameters else None for item in inputs]
        self.regions = {item.name: _region(item) for item in message.outputs if "shared_memory_region" in item.parameters}
        self.classes = {item.name: _classes(item) for item in message.outputs if "classification" in item.parameters}
        self.outputs: tuple[str, ...] = tuple([o.name for o in message.outputs])

    @property
    def has_contents(self) -> bool:
        return self.contents.count(None) < len(self.contents)

    @property
    def special(self) -> bool:
        """Whether the request uses shared memory or asks for classes."""
        return bool(self.classes or self.regions) or self.shared.count(None) < len(self.shared)

    def __repr__(self) -> str:
        return f"Declared({', '.join(self.names)})"


def _check_own(parameters: Mapping[str, Any]) -> None:
    """Raise InvalidArgument where a parameter of the server's own is of another kind, or negative."""
    for key in parameters.keys() & _KINDS.keys():
        kinds, words = _KINDS[key]
        kind = parameters[key].WhichOneof("parameter_choice")
        if kind not in kinds:
            raise InvalidArgument(f"invalid value type for '{key}' parameter, expected {words}.")
        if kind == "int64_param" and parameters[key].int64_param < 0:
            raise InvalidArgument(f"invalid value for '{key}', expected value >= 0.")


def read_contents(declared: Declared, accepted: Accepted, contract: Contract) -> list[bytes]:
    """Return the wire bytes of inputs that come as typed contents. Raises InvalidArgument, for the last bad one."""
    buffers = [b""] * len(declared.contents)
    for i in range(len(buffers) - 1, -1, -1):
        spec = accepted.specs[i]
        contents = declared.contents[i]
        if declared.shared[i] is not None:
            if contents is not None:
                raise SignatureMismatch(
                    f"unexpected 'content' provided when using shared memory for input tensor '{spec.name}' for model '{contract.model}'"
                )
            continue
        if contents is None:
            if accepted.counts[i]:
                raise no_data(spec.name, contract.model)
            continue
        buffers[i] = _to_wire(contents, spec, contract)
        if accepted.sizes[i] < 0:
            contract.check_bytes_tensor(buffers[i], accepted.counts[i], spec.name)
        elif len(buffers[i]) != accepted.sizes[i]:
            raise contract.size_mismatch(spec.name, accepted.sizes[i], len(buffers[i]))
    return buffers


def no_data(name: str, model: str) -> SignatureMismatch:
    """Return the error for an input that neither the message nor its raw contents say anything about."""
    return SignatureMismatch(f"unable to find data for input tensor '{name}' for model '{model}' in request.")


def _to_wire(contents: Any, spec: TensorSpec, contract: Contract) -> bytes:
    label = spec.dtype.label
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    for kind in filled:
        if label not in _CONTENTS[kind]:
            raise SignatureMismatch(
                f"unexpected explicit tensor data for input tensor '{spec.name}' for model '{contract.model}' "
                f"of type '{_CONTENTS[kind][-1]}', expected datatype '{label}'"
            )
    if not filled:
        return b""
    values = list(getattr(contents, filled[0]))
    if label == "BYTES":
        return b"".join([_LENGTH.pack(len(v)) + v for v in values])
    if label == "BOOL":
        return bytes(values)
    try:
        return array(ARRAY_CODE[label], values).tobytes()
    except OverflowError:
        raise InvalidArgument(f"number out of the range of {label} for input tensor '{spec.name}' for model '{contract.model}'") from None


def _region(item: Any) -> Region:
    """Return where a tensor with the parameter `shared_memory_region` lies. Raises InvalidArgument."""
    values = _values(item.parameters)
    name, offset = values["shared_memory_region"], values.get("shared_memory_offset", 0)
    nbytes = values.get("shared_memory_byte_size")
    if type(name) is not str:
        raise InvalidArgument(f"invalid value type for 'shared_memory_region' parameter for tensor '{item.name}', expected string_param.")
    for key, number in (("shared_memory_byte_size", nbytes), ("shared_memory_offset", offset)):
        if type(number) is not int or number < 0:
            raise InvalidArgument(f"invalid value for '{key}' parameter for tensor '{item.name}', expected an int64_param >= 0")
    return Region(name, cast(int, offset), cast(int, nbytes))


def _classes(item: Any) -> int:
    """Return how many classes of an output are wanted. Raises InvalidArgument."""
    value = _values(item.parameters)["classification"]
    if type(value) is not int:
        raise InvalidArgument("invalid value type for 'classification' parameter, expected int64_param")
    if value <= 0:
        raise InvalidArgument("invalid value for 'classification' parameter, expected > 0")
    return value


def _values(parameters: Mapping[str, Any]) -> dict[str, object]:
    """Return plain values; None where a parameter holds nothing."""
    values: dict[str, object] = {}
    for key, parameter in parameters.items():
        chosen = parameter.WhichOneof("parameter_choice")
        values[key] = getattr(parameter, chosen) if chosen else None
    return values
