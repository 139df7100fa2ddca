"""Runtime `python` for a class that was written for Triton's Python backend: `TritonPythonModel` with initialize, execute and finalize.

`import triton_python_backend_utils as pb_utils` finds `triton_utils.py`. A call gets one request with the rows of all requests of the
batch, and has to return one response to it, or send it. A decoupled one gets one request, and sends any number of responses, until one
is said to be the last; calls of `execute` come one after the other, what they have begun may go on beside each other.
Not here: business logic scripting (`InferenceRequest.exec`), GPU tensors, sequences.
"""

from __future__ import annotations

import atexit
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from serving.errors import Code, InvalidArgument, ModelFailed
from serving.hosting import VersionPlan
from serving.models import triton_utils
from serving.models.model import Arrays
from serving.models.python import construct, first, guard, load_class
from serving.models.registry import TRITON_ENTRY as ENTRY
from serving.models.signature import settle
from serving.models.triton_sender import ResponseSender
from serving.tensor import DType, Signature, TensorSpec

CONFIG = "model_config"
"""Option with the ModelConfig as JSON text; without it the model gets one that is made of its signature."""

_CODES = {
    triton_utils.TritonError.NOT_FOUND: Code.NOT_FOUND,
    triton_utils.TritonError.INVALID_ARG: Code.INVALID_ARGUMENT,
    triton_utils.TritonError.UNAVAILABLE: Code.UNAVAILABLE,
    triton_utils.TritonError.UNSUPPORTED: Code.UNSUPPORTED,
    triton_utils.TritonError.ALREADY_EXISTS: Code.ALREADY_EXISTS,
    triton_utils.TritonError.CANCELLED: Code.CANCELLED,
}
"""What a client is told for a TritonError's code; the others are the model's failure."""


def create(plan: VersionPlan, device: str) -> TritonModel:
    return TritonModel(plan, device)


class TritonModel:
    """A TritonPythonModel behind the Model port."""

    platform = "python"
    own_inputs = True
    parametric = True
    signature: Signature

    def __init__(self, plan: VersionPlan, device: str) -> None:
        self.decoupled = plan.decoupled
        self._plan = plan
        self._turn = Lock()
        self._device = device
        self._user: Any = None

    def load(self) -> None:
        plan = self._plan
        if plan.sequence is not None:
            raise InvalidArgument(f"'{plan.key}': a {ENTRY} is not served with sequences; write a class with predict")
        sys.modules.setdefault("triton_python_backend_utils", triton_utils)
        bare = VersionPlan(plan.model, plan.version, plan.runtime, plan.artefact, entry=ENTRY)
        self._user = construct(bare, load_class(bare))
        if not callable(getattr(self._user, "execute", None)):
            raise InvalidArgument(f"'{plan.key}': class {ENTRY} in {plan.artefact} has no method execute(requests)")
        self.signature = settle(plan, None, names=True)
        initialize = getattr(self._user, "initialize", None)
        if initialize is not None:
            guard(plan, "initialize()", lambda: initialize(self._arguments()))
        finalize = getattr(self._user, "finalize", None)
        if finalize is not None:
            atexit.register(finalize)

    def warm_up(self, batches: list[Arrays]) -> list[Arrays]:
        if self.decoupled:
            batches = batches[:1]
        replies = [self.predict({name: array.copy() for name, array in batch.items()}, {}) for batch in batches]
        return [reply for reply in map(first, replies) if reply is not None]

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays | Iterator[Arrays]:
        names = [s.name for s in self.signature.outputs]
        tensors = [triton_utils.Tensor(name, array) for name, array in inputs.items()]
        request = triton_utils.InferenceRequest(tensors, names, self._plan.model, int(self._plan.version), parameters)
        if self.decoupled:
            return self._answers(request)
        responses = self._user.execute([request])
        if responses is None and request.sender is not None:
            responses = list(request.sender.read())
        model = self._plan.model
        if not isinstance(responses, list | tuple) or len(responses) != 1:
            found = f"{len(responses)} responses" if isinstance(responses, list | tuple) else type(responses).__name__
            raise ModelFailed(f"execute of model '{model}' returned {found}, expected a list of 1 response to its 1 request")
        return _outputs(responses[0])

    def _answers(self, request: triton_utils.InferenceRequest) -> Iterator[Arrays]:
        """Have the request answered in a thread of its own, for `execute` may send as long as it likes before it returns."""
        sender = request.get_response_sender()
        Thread(target=self._execute, args=(request, sender), name=f"execute {self._plan.key}", daemon=True).start()
        with closing(sender.read()) as responses:
            for response in responses:
                yield _outputs(response)

    def _execute(self, request: triton_utils.InferenceRequest, sender: ResponseSender[triton_utils.InferenceResponse]) -> None:
        try:
            with self._turn:
                told = None if sender.is_cancelled() else self._user.execute([request])
            if told is not None:
                given = type(told).__name__
                raise ModelFailed(
                    f"execute of '{self._plan.model}', which is decoupled, returned a {given}, expected None: it sends its answers"
                )
        except BaseException as error:  # a model may raise anything; it is the caller's to hear of
            sender.fail(error)

    def check(self) -> None:
        return None

    def _arguments(self) -> dict[str, str]:
        """Return what `initialize` gets in Triton."""
        plan = self._plan
        return {
            "model_config": plan.options.get(CONFIG) or json.dumps(_config(plan, self.signature)),
            "model_instance_kind": "GPU" if self._device == "cuda" else "CPU",
            "model_instance_name": f"{plan.model}_0",
            "model_instance_device_id": "0",
            "model_repository": str(Path(plan.artefact).parent.parent),
            "model_version": plan.version,
            "model_name": plan.model,
        }


def _outputs(response: triton_utils.InferenceResponse) -> Arrays:
    """Return the tensors of a response. Raises ModelFailed where it is an error."""
    error = response.error()
    if error is not None:
        raise ModelFailed(error.message(), code=_CODES.get(error.code()))
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _config(plan: VersionPlan, signature: Signature) -> dict[str, Any]:
    def tensor(spec: TensorSpec) -> dict[str, Any]:
        kind = "STRING" if spec.dtype is DType.BYTES else spec.dtype.label
        return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": list(spec.shape)}

    return {
        "name": plan.model,
        "backend": "python",
        "max_batch_size": signature.max_batch_size,
        "input": [tensor(s) for s in signature.inputs],
        "output": [tensor(s) for s in signature.outputs],
        "parameters": {},
        "model_transaction_policy": {"decoupled": plan.decoupled},
    }
