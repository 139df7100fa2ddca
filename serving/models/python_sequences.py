"""Runtime `python` for a model that keeps a state per sequence (`sequence:` in the YAML).

    class Model:
        def predict(self, inputs, sequences):           # one `Sequence` for each row of the inputs: id, start, end, state
            totals = []
            for x, sequence in zip(inputs["x"], sequences):
                state = sequence.state                  # a fresh dict at START, kept until END
                state["total"] = state.get("total", 0) + x
                totals.append(state["total"])
            return {"y": np.array(totals)}

A request that fails leaves the dict as it was: assign new values to its keys, do not change the old ones in place.
"""

from __future__ import annotations

import inspect
from typing import Any

from serving.errors import InvalidArgument
from serving.hosting import VersionPlan
from serving.models.model import Arrays
from serving.models.python import PythonModel
from serving.sequence import Sequence


def create(plan: VersionPlan, device: str) -> SequenceModel:
    return SequenceModel(plan)


class SequenceModel(PythonModel):
    """A user's class whose `predict` takes `sequences`."""

    def load(self) -> None:
        super().load()
        plan = self._plan
        try:
            takes = "sequences" in inspect.signature(self.predict).parameters
        except (TypeError, ValueError):  # made in C: it does not tell
            takes = True
        if not takes:
            raise InvalidArgument(
                f"'{plan.key}' has sequences, but predict of class {plan.entry} in {plan.artefact} does not take them: "
                "expected predict(inputs, sequences)"
            )

        if self.decoupled:
            raise InvalidArgument(f"'{plan.key}' has sequences, and a predict that yields its answers: only one of the two is possible")

    def warm_up(self, batches: list[Arrays]) -> list[Arrays]:
        predict: Any = self.predict
        batched = self._plan.batching.max_batch_size > 0

        def alone(inputs: Arrays, *more: Any) -> Any:
            rows = len(next(iter(inputs.values()))) if batched else 1
            return predict(inputs, *more, sequences=[Sequence(n + 1, end=True) for n in range(rows)])

        self.predict = alone
        try:
            return super().warm_up(batches)
        finally:
            self.predict = predict
