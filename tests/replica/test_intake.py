from __future__ import annotations

import pytest

from serving.errors import SignatureMismatch
from serving.inference import Layout, TensorLayout
from serving.replica.intake import check
from serving.tensor import DType, Signature, TensorSpec

BATCHED = Signature(
    (TensorSpec("a", DType.FP32, (4,)), TensorSpec("b", DType.BYTES, (-1,)), TensorSpec("c", DType.INT8, (), optional=True)),
    (TensorSpec("y", DType.FP32, (1,)),),
    8,
)
PLAIN = Signature((TensorSpec("a", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (1,)),), 0)
A = TensorLayout.fixed("a", DType.FP32, (2, 4))
B = TensorLayout("b", DType.BYTES, (2, 3), 77)
C = TensorLayout.fixed("c", DType.INT8, (2,))


@pytest.mark.parametrize(
    ("layout", "signature"),
    [
        (Layout((A, B, C), ("y",), rows=2), BATCHED),
        (Layout((B, A), rows=2), BATCHED),
        (Layout((TensorLayout.fixed("a", DType.FP32, (4,)),)), PLAIN),
    ],
)
def test_what_the_model_takes_passes(layout: Layout, signature: Signature) -> None:
    check(layout, signature, "M")


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ((A, B, TensorLayout.fixed("BAD", DType.INT8, (2,))), "unexpected inference input 'BAD' for model 'M'"),
        ((A, A, B), "input 'a' already exists in request"),
        ((C,), r"expected number of inputs between 2 and 3 but got 1 inputs for model 'M'. Got input\(s\) \['c'\], but missing required"),
        ((A, TensorLayout("b", DType.BYTES, (), 0)), "input 'b' has no shape but model requires batch dimension for 'M'"),
        ((A, TensorLayout("b", DType.BYTES, (3, 1), 0)), "input 'b' batch size does not match other inputs for 'M'"),
        ((A, TensorLayout.fixed("b", DType.INT8, (2, 3))), "inference input 'b' data-type is 'INT8', but model 'M' expects 'BYTES'"),
        ((TensorLayout.fixed("a", DType.FP32, (2, 5)), B), r"unexpected shape for input 'a' for model 'M'. Expected \[-1,4\], got \[2,5\]"),
        ((TensorLayout.fixed("a", DType.FP32, (2, -1)), B), "unexpected shape for input 'a'"),
        ((TensorLayout("a", DType.FP32, (2, 4), 28), B), "input byte size mismatch for input 'a' for model 'M'. Expected 32, got 28"),
    ],
)
def test_what_it_does_not_take_is_refused_in_words_that_clients_know(tensors: tuple[TensorLayout, ...], text: str) -> None:
    with pytest.raises(SignatureMismatch, match=text):
        check(Layout(tensors, rows=2), BATCHED, "M")


@pytest.mark.parametrize(
    ("layout", "signature", "text"),
    [
        (Layout((A, B), ("z",), rows=2), BATCHED, "unexpected inference output 'z' for model 'M'"),
        (Layout((A, B), ("y", "y"), rows=2), BATCHED, "an output already exists"),
        (Layout((TensorLayout.fixed("a", DType.FP32, (0, 4)), TensorLayout("b", DType.BYTES, (0, 1), 0)), rows=0), BATCHED, "must be >= 1"),
        (Layout((TensorLayout.fixed("a", DType.FP32, (4,)),), rows=2), PLAIN, "no batch dimension"),
        (Layout(()), PLAIN, r"expected 1 inputs but got 0 inputs for model 'M'"),
    ],
)
def test_outputs_and_rows_are_checked_too(layout: Layout, signature: Signature, text: str) -> None:
    with pytest.raises(SignatureMismatch, match=text):
        check(layout, signature, "M")
