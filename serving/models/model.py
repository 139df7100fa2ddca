"""The Model port: what every runtime gives to a replica. Knows tensors; knows no framework, no batching and no transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from serving.tensor import Signature

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


class Model(Protocol):
    """One loaded ModelVersion. `load` comes first, then `warm_up`, then `predict` any number of times.

    signature    valid after `load`; shapes without the batch dimension where it is batched
    platform     what clients see as the model's platform ("pytorch_exported")
    own_inputs   predict wants fresh writable arrays; else it gets read-only ones, without a copy where that is possible
    decoupled    predict returns an iterator of answers, each like that of an ordinary `predict`, or just one, or None; after `load`
    parametric   predict takes the parameters of the batch as a second argument; valid after `load`
    """

    signature: Signature
    platform: str
    own_inputs: bool
    parametric: bool
    decoupled: bool

    def load(self) -> None:
        """Bring the artefact into memory. Raises ServingError that says what is wrong and where. May run in any thread."""
        ...

    def warm_up(self, batches: list[Arrays]) -> list[Arrays]:
        """Run the batches and return the answers to them (fewer where the model warms up in its own way).

        Called once, by the thread that will call `predict`.
        """
        ...

    @property
    def predict(self) -> Callable[..., Any]:
        """`predict(inputs)`, or `predict(inputs, parameters)` of a model that is `parametric`.

        Returns the outputs by name, each with as many rows as the inputs; or (outputs, parameters), a dict of plain values.
        The arrays are handed on without a copy: they must not be written to again. Raises whatever the model raises.
        """
        ...

    def check(self) -> None:
        """Raise ServingError where the device cannot be used any more. Called now and then from another thread; cheap."""
        ...
