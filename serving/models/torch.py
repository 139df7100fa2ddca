"""Runtime `torch`: PyTorch models, on the processor or on one CUDA device.

    model.pt2           torch.export; signature and dynamic dimensions come from the program
    model.pt, model.ts  TorchScript; the signature must be declared
    model.py + entry    an nn.Module class, built with the plan's options; `weights` = its state_dict in safetensors;
                        the signature is declared or an attribute of the class

Inputs go to forward by name where the signature's names are those of its parameters, else in the signature's order. A tuple or a
tensor that comes back is named in the order of the signature's outputs, a dict by its keys.
OMP_NUM_THREADS and MKL_NUM_THREADS must be in the environment before this file is imported: setting the number of threads later leaves
threads spinning (3 times the CPU per request).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.fx.graph import CodeGen

from serving.errors import InvalidArgument, ModelFailed, NotFound, SignatureMismatch, Unavailable
from serving.hosting import VersionPlan
from serving.models.artefact import artefact_file
from serving.models.model import Array, Arrays
from serving.models.python import construct, guard, load_class
from serving.models.signature import parse, settle
from serving.tensor import DType, Signature, TensorSpec

PIN_BYTES = 256 * 1024
"""Inputs from this size on go to the device through pinned memory, without waiting for the copy."""

_DTYPES: dict[torch.dtype, DType] = {
    torch.bool: DType.BOOL,
    torch.uint8: DType.UINT8,
    torch.uint16: DType.UINT16,
    torch.uint32: DType.UINT32,
    torch.uint64: DType.UINT64,
    torch.int8: DType.INT8,
    torch.int16: DType.INT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
    torch.float16: DType.FP16,
    torch.float32: DType.FP32,
    torch.float64: DType.FP64,
    torch.bfloat16: DType.BF16,
}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_SCRIPT_LOCK = Lock()

Forward = Callable[..., Any]


def create(plan: VersionPlan, device: str) -> TorchModel:
    return TorchModel(plan, device)


class TorchModel:
    """A torch module behind the Model port."""

    own_inputs = True
    parametric = False
    decoupled = False
    signature: Signature
    platform: str

    def __init__(self, plan: VersionPlan, device: str) -> None:
        self._plan = plan
        self._cuda = device == "cuda"
        self._device = torch.device(device)
        self._module: torch.nn.Module | None = None
        self._inputs: tuple[str, ...] = ()
        self._outputs: tuple[str, ...] = ()
        self.predict: Callable[[Arrays], Arrays] = self._predict

    def load(self) -> None:
        plan = self._plan
        path = artefact_file(plan)
        if self._cuda and not torch.cuda.is_available():
            raise Unavailable(f"'{plan.key}': a GPU is asked for, but torch sees none")
        torch.set_num_threads(plan.threads)
        forward, names, self.signature = self._open(path)
        for spec in (*self.signature.inputs, *self.signature.outputs):
            if spec.dtype is DType.BYTES:
                raise InvalidArgument(f"'{plan.key}': tensor '{spec.name}' is BYTES, which torch does not have")
        declared = tuple(s.name for s in self.signature.inputs)
        self._inputs = tuple(n for n in names if n in declared) if set(declared) <= set(names) else declared
        self._outputs = tuple(s.name for s in self.signature.outputs)
        self._forward = forward
        if len(self._inputs) == 1 and len(self._outputs) == 1 and not self._cuda:
            specs = (self.signature.inputs[0], self.signature.outputs[0])
            if all(s.dtype is not DType.BF16 for s in specs):
                self.predict = _single(forward, self._inputs[0], self._outputs[0])

    def warm_up(self, batches: list[Arrays]) -> list[Arrays]:
        torch.set_num_threads(self._plan.threads)  # of this thread: OpenMP counts per calling thread
        return [self.predict({name: array.copy() for name, array in batch.items()}) for batch in batches]

    def check(self) -> None:
        if self._cuda:
            try:
                torch.cuda.current_stream(self._device).query()
            except RuntimeError as error:
                raise Unavailable(f"'{self._plan.key}': {self._device} is lost: {error}") from None

    def _predict(self, inputs: Arrays) -> Arrays:
        """Any number of inputs and outputs, any device. One in, one out on the processor goes through `_single`."""
        with torch.inference_mode():
            tensors = [self._to_tensor(inputs.get(name)) for name in self._inputs]
            found = self._forward(*tensors)
            if isinstance(found, torch.Tensor):
                found = (found,)
            if isinstance(found, dict):
                missing = [n for n in self._outputs if n not in found]
                if missing:
                    raise ModelFailed(f"model '{self._plan.model}' did not return output '{missing[0]}', but {sorted(map(str, found))}")
                found = [found[n] for n in self._outputs]
            if len(found) != len(self._outputs):
                raise ModelFailed(f"model '{self._plan.model}' returned {len(found)} outputs, but {len(self._outputs)} are declared")
            return {name: _to_array(tensor) for name, tensor in zip(self._outputs, found, strict=True)}

    def _to_tensor(self, array: Array | None) -> torch.Tensor | None:
        if array is None:  # an optional input that this batch does not have
            return None
        bf16 = array.dtype == _BFLOAT16
        if bf16:
            array = array.view(np.int16)
        tensor = torch.from_numpy(array)
        if self._cuda:
            tensor = tensor.pin_memory() if array.nbytes >= PIN_BYTES else tensor
            tensor = tensor.to(self._device, non_blocking=True)
        return tensor.view(torch.bfloat16) if bf16 else tensor

    # ---- artefacts

    def _open(self, path: Path) -> tuple[Forward, tuple[str, ...], Signature]:
        """Return (forward on the device, names of its parameters, signature)."""
        suffix = path.suffix
        if suffix == ".pt2":
            return self._open_exported(path)
        if suffix in (".pt", ".ts"):
            return self._open_script(path)
        if suffix == ".py":
            return self._open_class()
        raise InvalidArgument(
            f"'{self._plan.key}': artefact {path} is none of .pt2 (torch.export), .pt or .ts (TorchScript), .py (a class)"
        )

    def _open_exported(self, path: Path) -> tuple[Forward, tuple[str, ...], Signature]:
        self.platform = "pytorch_exported"
        program = guard(self._plan, "torch.export.load", lambda: torch.export.load(path))
        signature = settle(self._plan, _exported_signature(self._plan, program), names=False)
        names = tuple(str(n) for n in program.graph_signature.user_inputs)
        module = program.module()
        # Plain positional arguments instead of pytrees, and forward() instead of __call__, which would check the guards of the export:
        # 135 against 300 µs for a small MLP. Shapes and datatypes have been checked against the signature before.
        module.graph.set_codegen(CodeGen())
        module.recompile()
        self._keep(module, evaluate=False)
        return module.forward, names, signature

    def _open_script(self, path: Path) -> tuple[Forward, tuple[str, ...], Signature]:
        self.platform = "pytorch_libtorch"
        with _SCRIPT_LOCK, warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            module = guard(self._plan, "torch.jit.load", lambda: torch.jit.load(str(path), map_location=self._device))  # type: ignore[no-untyped-call]
        names = tuple(a.name for a in module.forward.schema.arguments[1:])
        if self._plan.signature is None:
            raise InvalidArgument(
                f"'{self._plan.key}': TorchScript does not say its types and shapes; declare a signature (forward takes {', '.join(names)})"
            )
        self._count(names)
        self._keep(module)
        return module, names, settle(self._plan, None, names=False)

    def _open_class(self) -> tuple[Forward, tuple[str, ...], Signature]:
        plan = self._plan
        self.platform = "pytorch"
        cls = load_class(plan)
        module = construct(plan, cls)
        if not isinstance(module, torch.nn.Module):
            raise InvalidArgument(f"'{plan.key}': {cls.__name__} in {plan.artefact} is not a torch.nn.Module")
        if plan.weights:
            self._load_weights(module)
        own = getattr(module, "signature", None)
        signature = settle(plan, None if own is None else parse(plan, own), names=True)
        names = tuple(n for n, p in inspect.signature(module.forward).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)
        self._keep(module)
        return module, names, signature

    def _load_weights(self, module: torch.nn.Module) -> None:
        plan = self._plan
        if not Path(plan.weights).is_file():
            raise NotFound(f"'{plan.key}': weights {plan.weights} are not there")
        try:
            module.load_state_dict(load_file(plan.weights))
        except SafetensorError as error:
            raise InvalidArgument(f"'{plan.key}': {plan.weights} is not a safetensors file: {error}") from None
        except RuntimeError as error:
            raise InvalidArgument(f"'{plan.key}': weights {plan.weights} do not fit {plan.entry}: {error}") from None

    def _count(self, names: Sequence[str]) -> None:
        declared = self._plan.signature
        if declared is not None and len(declared.inputs) > len(names):
            raise SignatureMismatch(
                f"'{self._plan.key}': {len(declared.inputs)} inputs declared, but forward takes {len(names)} ({', '.join(names)})"
            )

    def _keep(self, module: torch.nn.Module, evaluate: bool = True) -> None:
        if evaluate:
            module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._module = module.to(self._device)


def _single(forward: Forward, name: str, out: str) -> Callable[[Arrays], Arrays]:
    """Return `predict` for one tensor in and one out on the processor, with nothing in between."""
    from_numpy = torch.from_numpy
    inference = torch.inference_mode
    tensor = torch.Tensor

    def predict(inputs: Arrays) -> Arrays:
        with inference():
            found = forward(from_numpy(inputs[name]))
            if type(found) is tensor:
                return {out: found.numpy()}
            found = found[out] if isinstance(found, dict) else found[0]
            return {out: _to_array(found)}

    return predict


def _to_array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(_BFLOAT16)
    array: Array = tensor.numpy()
    return array


def _exported_signature(plan: VersionPlan, program: torch.export.ExportedProgram) -> Signature:
    graph = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = _specs(plan, [(str(n), values.get(str(n))) for n in graph.user_inputs])
    names = [str(n) for n in graph.user_outputs]
    labels = _output_labels(program, len(names))
    outputs = _specs(plan, [(label, values.get(n)) for label, n in zip(labels, names, strict=True)])
    max_batch_size = plan.batching.max_batch_size
    if not max_batch_size:
        return Signature(inputs, outputs, 0)
    for spec in (*inputs, *outputs):
        if not spec.shape or spec.shape[0] != -1:
            raise SignatureMismatch(
                f"'{plan.key}': '{spec.name}' was exported with shape {list(spec.shape)}, but max_batch_size {max_batch_size} "
                'needs a first dimension of any size (torch.export: dynamic_shapes={"x": {0: Dim("batch")}}), or max_batch_size 0'
            )
    return Signature(_rows_off(inputs), _rows_off(outputs), max_batch_size)


def _output_labels(program: torch.export.ExportedProgram, count: int) -> list[str]:
    """Return the names of a forward that returns a dict; tensors without a name are "output", or "output_0" and on."""
    shape = program.call_spec.out_spec
    if shape is not None and shape.type is dict and len(shape.context) == count:
        return [str(key) for key in shape.context]
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _rows_off(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(s.name, s.dtype, s.shape[1:]) for s in specs)


def _specs(plan: VersionPlan, values: list[tuple[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, value in values:
        if not isinstance(value, torch.Tensor) or value.dtype not in _DTYPES:
            raise InvalidArgument(f"'{plan.key}': '{name}' of {plan.artefact} is not a tensor of a protocol datatype")
        shape = tuple(d if isinstance(d, int) else -1 for d in value.shape)
        specs.append(TensorSpec(name, _DTYPES[value.dtype], shape))
    return tuple(specs)
