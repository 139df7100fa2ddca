"""Special: what a request wants beside tensors in its body and in its answer: shared memory, classification, either or both ways.

Kept with the form of a request, so that most requests carry None. What memory is and who may use it is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from serving.errors import InvalidArgument, ModelFailed
from serving.inference import Buffer, InferResponse, Layout, TensorLayout
from serving.protocol import classification
from serving.protocol.check import Accepted, Contract
from serving.tensor import DType, Signature


class Region(NamedTuple):
    """A piece of a client's memory: the name it is registered under, and bytes in it."""

    name: str
    offset: int
    nbytes: int


class SharedInput(NamedTuple):
    """An input that lies in a region. `place` in the payload; `elements` are to be counted where it is BYTES, else -1."""

    place: int
    region: Region
    tensor: str
    elements: int


class Special:
    """See above. `inputs` in payload order, `outputs` by name, `classes`: how many of an output, by name."""

    __slots__ = ("_contract", "classes", "inputs", "outputs")

    def __init__(self, contract: Contract, inputs: tuple[SharedInput, ...], outputs: dict[str, Region], classes: dict[str, int]) -> None:
        self._contract = contract
        self.inputs = inputs
        self.outputs = outputs
        self.classes = classes
        for spec in contract.signature.outputs:
            if spec.name in classes:
                classification.check(spec)
                if spec.name in outputs:
                    raise InvalidArgument(f"shared memory can't be set on classification output '{spec.name}'")

    @property
    def shares(self) -> bool:
        """Whether shared memory is needed at all."""
        return bool(self.inputs or self.outputs)

    def check(self, item: SharedInput, data: Buffer) -> None:
        """Raise InvalidArgument where an input, now that it has been read, is not what it says."""
        if item.elements >= 0:
            self._contract.check_bytes_tensor(data, item.elements, item.tensor)

    def finish(self, response: InferResponse, write: Callable[[Region, Buffer], None]) -> None:
        """Turn the model's answer into the client's: `write(region, data)` takes what goes to shared memory.

        An output in shared memory stays in the layout, without bytes. Raises InvalidArgument where it does not fit.
        """
        layout = response.layout
        if layout is None:
            raise ModelFailed("the model answered without outputs")
        view = memoryview(response.payload)
        tensors: list[TensorLayout] = []
        parts: list[Buffer] = []
        at = 0
        for tensor in layout.tensors:
            data = view[at : at + tensor.nbytes]
            at += tensor.nbytes
            region = self.outputs.get(tensor.name)
            if region is not None:
                if tensor.nbytes > region.nbytes:
                    raise InvalidArgument(
                        f"shared memory size specified with the request for output '{tensor.name}' ({region.nbytes} bytes) "
                        f"should be at least {tensor.nbytes} bytes to hold the results"
                    )
                write(region, data)
                tensors.append(TensorLayout(tensor.name, tensor.dtype, tensor.shape, 0))
                continue
            if tensor.name in self.classes:
                signature = self._contract.signature
                tensor, shown = classification.classify(
                    tensor, data, self.classes[tensor.name], signature.batched, _labels(signature, tensor.name)
                )
                parts.append(shown)
            else:
                parts.append(data)
            tensors.append(tensor)
        response.layout = Layout(tuple(tensors), layout.outputs, layout.parameters, layout.rows)
        response.payload = parts[0] if len(parts) == 1 else b"".join(parts)


def shared_inputs(accepted: Accepted, regions: Sequence[Region | None], contract: Contract) -> tuple[SharedInput, ...]:
    """Return the inputs that lie in regions (order of the request), with their places.

    Raises SignatureMismatch for a wrong size, the last one first.
    """
    order = accepted.order or range(len(regions))
    places = {position: place for place, position in enumerate(order)}
    found: list[SharedInput] = []
    for i in range(len(regions) - 1, -1, -1):
        region = regions[i]
        if region is None:
            continue
        spec = accepted.specs[i]
        if accepted.sizes[i] >= 0 and region.nbytes != accepted.sizes[i]:
            raise contract.size_mismatch(spec.name, accepted.sizes[i], region.nbytes)
        found.append(SharedInput(places[i], region, spec.name, accepted.counts[i] if spec.dtype is DType.BYTES else -1))
    return tuple(sorted(found))


def _labels(signature: Signature, name: str) -> tuple[str, ...]:
    (labels,) = [spec.labels for spec in signature.outputs if spec.name == name]
    return labels
