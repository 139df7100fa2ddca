"""Runtime `python`: a user's class in a file.

    class Model:                                        # the plan's `entry` names it
        signature = {"inputs": [...], "outputs": [...]}   # optional where the YAML declares it
        def __init__(self, **options): ...
        def load(self): ...                             # optional
        def warm_up(self): ...                          # optional; instead of batches of zeros
        def predict(self, inputs): return {"y": ...}    # dict[str, ndarray] both ways; inputs are read-only

Parameters, both ways: `predict(self, inputs, parameters)` gets the parameters of the requests, a dict of text, truth values and
numbers (requests with other parameters are in other batches), and any `predict` may return `({"y": ...}, {"tokens": 12})`: every
request of the batch gets these back.

Decoupled: a `predict` that is a generator function (or `decoupled: true` in the YAML, for one that returns an iterator) yields any
number of answers to a request, each a dict or (dict, parameters), sent as it comes. A call gets one request, in a thread of its own;
up to `max_streams` run at once. The rows of an answer need not be those of the request. When the client has gone, the generator is
closed where it stands, at its `yield`: `finally` and `with` run.

Each version's file becomes a module of its own name, so two versions never share globals. The file's folder goes to the end of
sys.path, for its helpers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.errors import InvalidArgument, ModelFailed, NotFound, ServingError
from serving.hosting import VersionPlan
from serving.models.artefact import artefact_file
from serving.models.model import Arrays
from serving.models.signature import parse, settle
from serving.tensor import Signature


def create(plan: VersionPlan, device: str) -> PythonModel:
    return PythonModel(plan)


class PythonModel:
    """A user's class behind the Model port."""

    platform = "python"
    own_inputs = False
    signature: Signature

    def __init__(self, plan: VersionPlan) -> None:
        self._plan = plan
        self._user: Any = None
        self.predict: Callable[..., Any] = _not_loaded
        self.parametric = False
        self.decoupled = False

    def load(self) -> None:
        plan = self._plan
        self._user = construct(plan, load_class(plan))
        predict = getattr(self._user, "predict", None)
        if not callable(predict):
            raise InvalidArgument(f"'{plan.key}': class {plan.entry} in {plan.artefact} has no method predict(inputs)")
        load = getattr(self._user, "load", None)
        if load is not None:
            guard(plan, "load()", load)
        own = getattr(self._user, "signature", None)
        self.signature = settle(plan, None if own is None else parse(plan, own), names=True)
        self.predict = predict
        self.parametric = takes_parameters(predict)
        self.decoupled = plan.decoupled or inspect.isgeneratorfunction(predict)

    def warm_up(self, batches: list[Arrays]) -> list[Arrays]:
        own = getattr(self._user, "warm_up", None)
        if own is not None:
            own()
            return []
        if self.decoupled:
            batches = batches[:1]
        replies = [self.predict(batch, {}) if self.parametric else self.predict(batch) for batch in batches]
        if self.decoupled:
            replies = [reply for reply in map(first, replies) if reply is not None]
        return [reply[0] if isinstance(reply, tuple) and reply else reply for reply in replies]

    def check(self) -> None:
        return None


def load_class(plan: VersionPlan) -> type[Any]:
    """Import the plan's file under a name of its own and return the class `entry`. Raises ServingError."""
    path = artefact_file(plan)
    entry = plan.entry or "Model"
    module: ModuleType = guard(plan, "import", lambda: _import(plan, path))
    found = getattr(module, entry, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise NotFound(f"'{plan.key}': no class '{entry}' in {path}, it has {', '.join(classes) or 'none'}")
    return found


def takes_parameters(predict: Callable[..., Any]) -> bool:
    """Say whether the second argument of `predict` is `parameters`."""
    try:
        names = list(inspect.signature(predict).parameters)
    except (TypeError, ValueError):  # made in C: it does not tell
        return False
    return names[1:2] == ["parameters"]


def construct(plan: VersionPlan, cls: type[Any]) -> Any:
    """Return `cls(**options)`. Raises ServingError that names the options."""
    return guard(plan, f"{cls.__name__}({', '.join(plan.options)})", lambda: cls(**plan.options))


def guard(plan: VersionPlan, what: str, act: Callable[[], Any]) -> Any:
    """Run a piece of the user's code; what it raises becomes ModelFailed with the place and the text."""
    try:
        return act()
    except ServingError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelFailed(f"'{plan.key}': {what} of {plan.artefact} raised {type(error).__name__}: {error}") from error


def _import(plan: VersionPlan, path: Path) -> ModuleType:
    name = "serving_model_" + "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in plan.key)
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidArgument(f"'{plan.key}': {path} is not a Python file (.py)")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


def first(reply: Any) -> Any:
    """Return the first answer of a decoupled model, None where it gives none; the others are not asked for: there may be no end of them."""
    if reply is None or isinstance(reply, (dict, tuple)):
        return reply
    answers = iter(reply)
    try:
        return next(answers, None)
    finally:
        close = getattr(answers, "close", None)
        if close is not None:
            close()


def _not_loaded(inputs: Arrays) -> Arrays:
    raise ModelFailed("the model is not loaded")
