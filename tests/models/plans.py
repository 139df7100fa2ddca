"""Plans of versions in a temporary directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.hosting import BatchPolicy, VersionPlan
from serving.tensor import DType, Signature, TensorSpec


def signature(
    inputs: dict[str, tuple[DType, tuple[int, ...]]], outputs: dict[str, tuple[DType, tuple[int, ...]]], rows: int = 8
) -> Signature:
    def specs(value: dict[str, tuple[DType, tuple[int, ...]]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, dtype, shape) for name, (dtype, shape) in value.items())

    return Signature(specs(inputs), specs(outputs), rows)


X4_Y2 = signature({"x": (DType.FP32, (4,))}, {"y": (DType.FP32, (2,))})


def plan(artefact: Path, runtime: str = "python", *, rows: int = 8, **fields: Any) -> VersionPlan:
    return VersionPlan("m", "1", runtime, str(artefact), batching=BatchPolicy(max_batch_size=rows), **fields)
