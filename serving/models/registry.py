"""Which file in this folder serves which runtime. The one place where a runtime is imported, by name: a replica of a
Python class must not pay 200 MB and two seconds for torch.

A runtime is a module with `create(plan, device) -> Model`.
"""

from __future__ import annotations

from importlib import import_module

from serving.errors import InvalidArgument, NotFound
from serving.hosting import VersionPlan
from serving.models.model import Model

RUNTIMES: dict[str, str] = {
    "python": "serving.models.python",
    "torch": "serving.models.torch",
    "onnx": "serving.models.onnx",
}
TRITON_ENTRY, TRITON = "TritonPythonModel", "serving.models.triton"
"""A class of this name in a Python file was written for Triton's Python backend."""
SEQUENCE_RUNTIMES: dict[str, str] = {
    "python": "serving.models.python_sequences",
}


def create(plan: VersionPlan, device: str = "cpu") -> Model:
    """Return the model of a plan, not loaded yet. device: "cpu", or "cuda" where the plan was given a GPU.

    Raises InvalidArgument for a runtime that nobody knows, or that keeps no sequences where the plan has them, NotFound for one whose
    library is not installed.
    """
    module = RUNTIMES.get(plan.runtime)
    if module is None:
        raise InvalidArgument(f"runtime '{plan.runtime}' of '{plan.key}' is not known, expected one of {', '.join(RUNTIMES)}")
    if plan.runtime == "python" and plan.entry == TRITON_ENTRY:
        module = TRITON
    elif plan.sequence is not None:
        module = SEQUENCE_RUNTIMES.get(plan.runtime)
        if module is None:
            raise InvalidArgument(f"runtime '{plan.runtime}' of '{plan.key}' keeps no sequences, {', '.join(SEQUENCE_RUNTIMES)} does")
    try:
        runtime = import_module(module)
    except ModuleNotFoundError as error:
        raise NotFound(
            f"runtime '{plan.runtime}' of '{plan.key}' needs {error.name}, which is not installed: pip install 'serving[{plan.runtime}]'"
        ) from error
    model: Model = runtime.create(plan, device)
    return model
