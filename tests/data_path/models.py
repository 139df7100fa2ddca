"""Models for the data path's tests, as a user would write them, and the plan that holds them."""

from __future__ import annotations

from pathlib import Path

from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.tensor import DType, Signature, TensorSpec

SOURCE = '''
import os
import time
from pathlib import Path

import numpy as np


class Echo:
    def predict(self, inputs):
        return {"y": inputs["x"]}


class Gate:
    """Answers when the file is not there (any more)."""

    def __init__(self, path):
        self.path = path

    def predict(self, inputs):
        while os.path.exists(self.path):
            time.sleep(0.002)
        return {"y": inputs["x"] + 1}


class Marked:
    """Does not take a row that begins with -1."""

    def predict(self, inputs):
        if (inputs["x"][:, 0] == -1).any():
            raise ValueError("a row is marked")
        return {"y": inputs["x"] * 2}


class Pair:
    def predict(self, inputs):
        return {"sum": inputs["a"] + inputs["b"], "difference": inputs["a"] - inputs["b"]}


class Told:
    """Adds the parameter `add`, and tells what it was told."""

    def predict(self, inputs, parameters):
        told = {f"got_{key}": value for key, value in parameters.items()}
        return {"y": inputs["x"] + np.float32(parameters.get("add", 0))}, {"rows": len(inputs["x"]), **told}


class Count:
    """Answers `n` times: 0, 1, 2 .. Then raises where asked to. Notes in a folder what becomes of it."""

    def __init__(self, folder):
        self.folder = folder

    def warm_up(self):
        pass

    def predict(self, inputs, parameters):
        n = int(inputs["n"][0, 0])
        name = parameters.get("name", "")
        width = int(parameters.get("width", 1))
        array = np.empty((1, width), np.int32)
        ended = "closed"
        try:
            for i in range(n):
                while parameters.get("gate") and i and os.path.exists(self.folder + "/gate"):
                    time.sleep(0.002)
                if name:
                    Path(self.folder, f"{name}.at").write_text(str(i))
                array[:] = i
                yield {"i": array}, {"left": n - i - 1}
            if parameters.get("raise"):
                raise ValueError("counted too far")
            ended = "finished"
        finally:
            if name:
                Path(self.folder, name).write_text(ended)


class Speak:
    """Says the prompt as often as it is told to, then fails where it is told to."""

    def predict(self, inputs, parameters):
        assert inputs["STREAM"].shape == (1,)
        for n in range(parameters.get("REPETITION", 1)):
            yield {"TEXT": inputs["PROMPT"]}, {"n": n}
        if parameters.get("FAIL_LAST"):
            raise RuntimeError("An Error Occurred")


class Rows:
    """Gives no dict where it is asked for the row 13, one dict for even ones, and an iterator for odd ones."""

    def predict(self, inputs):
        n = int(inputs["n"][0, 0])
        if n == 13:
            return None
        if n == 14:
            return 5
        if n == 15:
            return iter([{"i": "text"}])
        answer = {"i": np.full((n, 1), n, np.int32)}
        return [answer, answer] if n % 2 else answer


class Whole:
    def predict(self, inputs):
        return {"y": inputs["x"].T.copy()}
'''


def echo_name(dtype: DType) -> str:
    """Return the name of the model that gives back tensors of this type, rows of any length."""
    return f"echo_{dtype.label.lower()}"


def signature(dtype: DType, inputs: tuple[str, ...], outputs: tuple[str, ...], shape: tuple[int, ...], rows: int) -> Signature:
    """Return a signature whose tensors are all alike."""
    return Signature(
        tuple(TensorSpec(n, dtype, shape) for n in inputs), tuple(TensorSpec(n, dtype, shape) for n in outputs), rows
    )  # fmt: skip


def plan(directory: Path, gate: Path) -> HostPlan:
    """Write the models' file and return what holds them all; `pair` has two versions."""
    path = directory / "models.py"
    path.write_text(SOURCE)

    def version(model: str, entry: str, what: Signature, number: str = "1", **policy: object) -> VersionPlan:
        batching = BatchPolicy(max_batch_size=what.max_batch_size, **{"execution": "inline", **policy})  # type: ignore[arg-type]
        options = {"Gate": {"path": str(gate)}, "Count": {"folder": str(gate.parent)}}.get(entry, {})
        return VersionPlan(
            model, number, "python", str(path), entry, options=options, signature=what, batching=batching, decoupled=entry == "Rows"
        )

    number = TensorSpec("n", DType.INT32, (1,))
    many = Signature((number,), (TensorSpec("i", DType.INT32, (-1,)),), 8)
    speak = Signature(
        (TensorSpec("PROMPT", DType.BYTES, (-1,)), TensorSpec("STREAM", DType.BOOL, (1,))), (TensorSpec("TEXT", DType.BYTES, (-1,)),)
    )
    pair = signature(DType.INT32, ("a", "b"), ("sum", "difference"), (16,), 8)
    return HostPlan(
        (
            *(version(echo_name(d), "Echo", signature(d, ("x",), ("y",), (-1,), 64)) for d in DType),
            version("gate", "Gate", signature(DType.FP32, ("x",), ("y",), (2,), 1), execution="thread", max_queue_requests=4096),
            version("narrow", "Gate", signature(DType.FP32, ("x",), ("y",), (2,), 1), execution="thread", max_queue_requests=2),
            version("marked", "Marked", signature(DType.FP32, ("x",), ("y",), (3,), 8), max_delay_s=0.002),
            version("pair", "Pair", pair, execution="thread", max_delay_s=0.002),
            version("pair", "Pair", pair, "2"),
            version("count", "Count", many, max_streams=40),
            version("few", "Count", many, max_streams=2, max_queue_requests=3),
            version("rows", "Rows", many),
            version("speak", "Speak", speak),
            version("word", "Echo", signature(DType.BYTES, ("x",), ("y",), (1,), 8)),
            version("told", "Told", signature(DType.FP32, ("x",), ("y",), (2,), 8), execution="thread", max_delay_s=0.002),
            version("whole", "Whole", signature(DType.FP32, ("x",), ("y",), (-1, -1), 0)),
        )
    )
