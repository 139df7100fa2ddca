"""Inherited: the settings of one version, with what it leaves out taken from its model, and where each was written."""

from __future__ import annotations

from typing import TypeVar

from serving.hosting import Execution
from serving.spec.face import BatchingFace, ModelFace, ResourcesFace, SequenceFace, SharedFace, SignatureFace, VersionFace, WarmUpFace
from serving.spec.problem import Path
from serving.spec.strict import Face

_Section = TypeVar("_Section", bound=Face)


class Inherited:
    """One version as it will be served. Sections are merged key by key; a signature and a description are taken whole."""

    def __init__(self, model_name: str, model: ModelFace, version_name: str) -> None:
        self.model_name = model_name
        self.version_name = version_name
        self.version: VersionFace = model.versions[version_name]
        self._model = model
        self.at: Path = ("models", model_name, "versions", version_name)

    @property
    def signature(self) -> SignatureFace | None:
        return self._giver("signature").signature

    @property
    def execution(self) -> Execution:
        return self._giver("execution").execution

    @property
    def predict_timeout_s(self) -> float:
        return self._giver("predict_timeout_s").predict_timeout_s

    @property
    def decoupled(self) -> bool:
        return self._giver("decoupled").decoupled

    @property
    def at_most_once(self) -> bool:
        return self._model.at_most_once

    @property
    def replicas(self) -> int:
        return self._giver("replicas").replicas

    @property
    def batching(self) -> BatchingFace:
        return _merged(self._model.batching, self.version.batching)

    @property
    def resources(self) -> ResourcesFace:
        return _merged(self._model.resources, self.version.resources)

    @property
    def warm_up(self) -> WarmUpFace:
        return _merged(self._model.warm_up, self.version.warm_up)

    @property
    def sequence(self) -> SequenceFace | None:
        model, version = self._model.sequence, self.version.sequence
        return _merged(model, version) if model and version else version or model

    def place(self, *names: str) -> Path:
        """Return where a setting was written: at the version, at the model, or the version itself where it is a default."""
        for path, face in zip(self.places(*names), (self.version, self._model), strict=True):
            section = getattr(face, names[0], None) if len(names) > 1 else face
            if names[0] in face.model_fields_set and isinstance(section, Face) and names[-1] in section.model_fields_set:
                return path
        return self.at

    def places(self, *names: str) -> tuple[Path, Path]:
        """Return all paths where a setting can be written."""
        return (*self.at, *names), (*self.at[:2], *names)

    def _giver(self, name: str) -> SharedFace:
        return self.version if name in self.version.model_fields_set else self._model


def _merged(model: _Section, version: _Section) -> _Section:
    return model.model_copy(update={name: getattr(version, name) for name in version.model_fields_set})
