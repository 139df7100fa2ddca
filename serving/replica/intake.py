"""Checks a layout against the signature of the version that it is for. Once per layout and connection, whatever the gateway did. Pure."""

from __future__ import annotations

from serving.errors import SignatureMismatch
from serving.inference import Layout, TensorLayout
from serving.tensor import DType, Signature, TensorSpec


def check(layout: Layout, signature: Signature, model: str) -> None:
    """Raise SignatureMismatch, in the words that clients of Triton know, where requests of this layout cannot go to the model.

    The number of rows is checked against max_batch_size by the queue, because the policy may change.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    seen: set[str] = set()
    for tensor in layout.tensors:
        if tensor.name not in specs:
            raise SignatureMismatch(f"unexpected inference input '{tensor.name}' for model '{model}'")
        if tensor.name in seen:
            raise SignatureMismatch(f"input '{tensor.name}' already exists in request")
        seen.add(tensor.name)
    _check_missing(seen, signature, model)
    for tensor in layout.tensors:
        _check_tensor(tensor, specs[tensor.name], layout.rows, signature, model)
    if not signature.batched and layout.rows != 1:
        raise SignatureMismatch(f"layout says {layout.rows} rows, but '{model}' has no batch dimension")
    outputs = {spec.name for spec in signature.outputs}
    for name in layout.outputs:
        if name not in outputs:
            raise SignatureMismatch(f"unexpected inference output '{name}' for model '{model}'")
    if len(set(layout.outputs)) != len(layout.outputs):
        raise SignatureMismatch(f"an output already exists in request for model '{model}'")


def _check_missing(seen: set[str], signature: Signature, model: str) -> None:
    missing = [s.name for s in signature.inputs if s.name not in seen and not s.optional]
    if not missing:
        return
    required = sum(not s.optional for s in signature.inputs)
    total = len(signature.inputs)
    expected = f"{total}" if required == total else f"number of inputs between {required} and {total}"
    got = f"{expected} inputs but got" if required == total else f"{expected} but got"
    raise SignatureMismatch(
        f"expected {got} {len(seen)} inputs for model '{model}'. Got input(s) {sorted(seen)}, "
        f"but missing required input(s) {missing}. Please provide all required input(s)."
    )


def _check_tensor(tensor: TensorLayout, spec: TensorSpec, rows: int, signature: Signature, model: str) -> None:
    name = tensor.name
    shape = tensor.shape
    if any(d < 0 for d in shape):
        raise SignatureMismatch(f"unexpected shape for input '{name}' for model '{model}': {list(shape)}")
    if signature.batched:
        if not shape:
            raise SignatureMismatch(f"input '{name}' has no shape but model requires batch dimension for '{model}'")
        if shape[0] != rows:
            raise SignatureMismatch(f"input '{name}' batch size does not match other inputs for '{model}'")
        if not rows:
            raise SignatureMismatch(f"inference request batch-size must be >= 1 for '{model}'")
    if tensor.dtype is not spec.dtype:
        raise SignatureMismatch(
            f"inference input '{name}' data-type is '{tensor.dtype.label}', but model '{model}' expects '{spec.dtype.label}'"
        )
    wanted = signature.wire_shape(spec)
    if len(shape) != len(wanted) or any(w not in (-1, d) for d, w in zip(shape, wanted, strict=True)):
        expected = ",".join(map(str, wanted))
        got = ",".join(map(str, shape))
        raise SignatureMismatch(f"unexpected shape for input '{name}' for model '{model}'. Expected [{expected}], got [{got}]")
    if tensor.dtype is not DType.BYTES:
        size = TensorLayout.fixed(name, tensor.dtype, shape).nbytes
        if tensor.nbytes != size:
            raise SignatureMismatch(
                f"input byte size mismatch for input '{name}' for model '{model}'. Expected {size}, got {tensor.nbytes}"
            )
