"""CheckedFile: one document against the face. What is wrong becomes problems; what is right goes on to the rules.

A file with a wrong value is checked on without that value, so that all of its problems show at once. Findings that lean on
a value that was wrong are kept back: they would only repeat the first one in other words.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serving.errors import InvalidArgument
from serving.names import model_name
from serving.spec.document import Document
from serving.spec.explain import explain
from serving.spec.face import EngineFace, ModelFace
from serving.spec.problem import Path, Problem

_Face = TypeVar("_Face", bound=BaseModel)


class CheckedFile:
    """`engine` holds the settings of the file, without its models; `models` holds those of which enough is right."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = list(document.problems)
        self._broken: set[Path] = set(document.broken)
        models = document.data.get("models")
        named = models if isinstance(models, dict) else {}
        engine = {k: {} if v is named else v for k, v in document.data.items()}
        self.engine = self._validated(EngineFace, (), engine) or EngineFace()
        self.models: dict[str, ModelFace] = {}
        for name, data in named.items():
            try:
                model_name(name)
            except InvalidArgument as error:
                self.report(("models", name), error.message, at_key=True)
            model = self._validated(ModelFace, ("models", name), data)
            if model is not None:
                self.models[name] = model

    def report(self, path: Path, message: str, *involved: Path, at_key: bool = False) -> None:
        """Add a problem at `path`, unless that place, or another that the message is about, was wrong before."""
        if any(place[: len(broken)] == broken for broken in self._broken for place in (path, *involved)):
            return
        problem = self.document.problem(path, message, at_key=at_key)
        if problem not in self.problems:
            self.problems.append(problem)

    def _validated(self, face: type[_Face], at: Path, data: Any) -> _Face | None:
        """Return the data as a face, without what is wrong in it; None where nothing useful is left."""
        fresh = True
        while True:
            try:
                return face.model_validate(data)
            except ValidationError as invalid:
                errors = invalid.errors(include_url=False)
            data = copy.deepcopy(data)
            for error in errors:
                told = explain(at, error)
                if fresh and told.path not in self._broken:
                    self.problems.append(self.document.problem(told.path, told.message, at_key=error["type"] == "extra_forbidden"))
                lost = error["loc"][:-1] if error["type"] == "missing" else error["loc"]
                lost = lost[: next((i for i, step in enumerate(lost) if isinstance(step, int)), len(lost))]
                self._broken |= {told.path, told.meant, (*at, *lost)}
                if not lost:
                    return None
                _remove(data, lost)
            fresh = False


def _remove(data: Any, path: Path) -> None:
    for step in path[:-1]:
        data = data.get(step, {})
    data.pop(path[-1], None)
