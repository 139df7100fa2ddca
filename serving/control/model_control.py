"""ModelControl: what clients ask of the repository: its index, load and unload. Answers when it is done: every gateway has acknowledged it.

What was loaded otherwise than declared, or unloaded, is part of the Target (its `shelf`), so it survives a restart of the controller.
A load that fails leaves the model as it was before.
"""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from serving.control.acceptance import Act, part
from serving.control.event import CLIENT
from serving.control.runner import Runner
from serving.control.shelving import declared, loaded, restored, unloaded
from serving.control.status import Status, VersionStatus
from serving.errors import DeadlineExceeded, Internal, InvalidArgument, NotFound, ServingError, Unavailable
from serving.names import model_name
from serving.plan import Target

log = logging.getLogger(__name__)

DONE_S = 570.0
"""Longest wait for a model to start; it goes on starting afterwards."""
OFF = "explicit model load / unload is not allowed if polling is enabled"
NO_NAME = "Model name cannot be empty. Please enter a valid name to deploy."
TRAVERSAL = "model name must not contain path traversal characters"
MAX_FILES, MAX_FILE_BYTES = 1000, 512 << 20
"""Of one load request; bytes of all its files together."""
_AT_ONCE = 64
_STATES = {"ready": "READY", "starting": "LOADING", "failed": "UNAVAILABLE", "stopping": "UNLOADING"}


class ModelSource(Protocol):
    """Where models come from that are not in the Target, and how a client's configuration changes one that is.

    All return a Target of one model.
    config  JSON of a ModelConfig, "" = as it is. Every method raises ServingError with what is wrong.
    """

    def names(self) -> dict[str, list[str]]:
        """Return the models of the repositories, each with its version folders."""

    def read(self, name: str, config: str) -> Target:
        """Return a model of a repository as it lies there now. Raises NotFound where no repository has it."""

    def read_files(self, name: str, config: str, files: Mapping[str, bytes]) -> Target:
        """Return a model whose files (by "VERSION/name") a client has sent; they are kept."""

    def declared(self, piece: Target, config: str) -> Target:
        """Return a model of the files, with its artefacts read again."""

    def was_sent(self, artefact: str) -> bool:
        """Say whether a client has sent this file."""

    def tidy(self, artefacts: set[str]) -> None:
        """Forget the files of clients that are none of these artefacts."""


def _nothing(_: str) -> None:
    """Every model may be changed at once."""


class ModelControl:
    """allowed: whether clients may load and unload. `handlers` are those of the desk; they run in its worker threads."""

    def __init__(
        self, runner: Runner, source: ModelSource, allowed: bool, done_s: float = DONE_S, refuse: Callable[[str], None] = _nothing
    ) -> None:
        """refuse(model): raises where a change of the model is not to be made at once."""
        self._runner = runner
        self._source = source
        self._allowed = allowed
        self._done_s = done_s
        self._refuse = refuse
        self._turns = [threading.Lock() for _ in range(_AT_ONCE)]
        """One change of a model at a time."""
        self._failed: dict[str, dict[str, str]] = {}
        """Why loads have failed, by model and version."""

    @property
    def handlers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "index": lambda _: {"models": self.index()},
            "load": lambda a: self.load(a["model"], a["config"], a["files"], a.get("who", CLIENT)),
            "unload": lambda a: self.unload(a["model"], a.get("who", CLIENT)),
        }

    def index(self) -> list[dict[str, str]]:
        """Return every version that is known, loaded or not: name, version, state, reason."""
        status, target = self._runner.status, self._runner.target
        found = {(v.model, v.version): (_STATES[v.state], "" if v.state == "ready" else v.reason) for v in status.versions}
        for key in status.draining:
            model, version = key.split("/")
            found.setdefault((model, version), ("UNLOADING", ""))
        for deployment in target.shelf.deployments:
            found.setdefault((deployment.plan.model, deployment.plan.version), ("UNAVAILABLE", "unloaded"))
        for name, versions in self._source.names().items():
            if name not in target.routes.routes:
                for version in versions or [""]:
                    found.setdefault((name, version), ("UNAVAILABLE", "not loaded"))
        for name, reasons in list(self._failed.items()):
            for version, reason in reasons.items():
                if found.get((name, version), ("UNAVAILABLE", ""))[0] in ("UNAVAILABLE", "UNLOADING"):
                    found[name, version] = "UNAVAILABLE", reason
        return [
            {"name": name, "version": version, "state": state, "reason": reason}
            for (name, version), (state, reason) in sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1] or 0)))
        ]

    def load(self, name: str, config: str = "", files: Mapping[str, str] | None = None, who: str = CLIENT) -> dict[str, Any]:
        """Load or load again; `files` are base64 by "VERSION/name". Raises Internal ("failed to load ...") where it does not start."""
        self._check(name)
        content = _decoded(files or {})
        with self._turn(name):
            before = self._runner.target
            try:
                piece, otherwise = self._piece(before, name, config, content)
            except ServingError as error:
                raise _not_loaded(name, error) from error
            revision = self._runner.change(
                lambda now: loaded(now, piece, otherwise and self._is_declared(now, name)), Act(who, f"load {name}"), (name,)
            )
            self._wait(revision, name)
            broken = [v for v in self._runner.status.versions if v.model == name and _broken(v)]
            if broken:
                self._give_up(before, name, broken, who)
            self._failed.pop(name, None)
            self._tidy()
            return {"versions": list(piece.routes.routes[name].versions)}

    def unload(self, name: str, who: str = CLIENT) -> dict[str, Any]:
        """Return when no gateway answers for the model any more. A model that is not loaded is unloaded already."""
        self._check(name)
        with self._turn(name):
            if name not in self._runner.target.routes.routes:
                return {}
            revision = self._runner.change(lambda now: unloaded(now, name, self._is_declared(now, name)), Act(who, f"unload {name}"))
            self._failed.pop(name, None)
            self._wait(revision, name)
            self._tidy()
            return {}

    # How

    def _check(self, name: str) -> None:
        if not self._allowed:
            raise Unavailable(OFF)
        if not name:
            raise InvalidArgument(NO_NAME)
        if "/" in name or "\\" in name or ".." in name:
            raise InvalidArgument(TRAVERSAL)
        model_name(name)
        self._refuse(name)

    def _turn(self, name: str) -> threading.Lock:
        return self._turns[hash(name) % _AT_ONCE]

    def _piece(self, now: Target, name: str, config: str, files: Mapping[str, bytes]) -> tuple[Target, bool]:
        """Return what is to run, and whether that is something else than the files or the repository say."""
        if files:
            if not config:
                raise InvalidArgument("files need a 'config' beside them: nothing is taken from the repository then")
            return self._source.read_files(name, config, files), True
        if name in self._source.names():
            return self._source.read(name, config), bool(config)
        known = declared(now, name)
        if known is None:
            raise NotFound("no such model")
        return self._source.declared(known, config), bool(config)

    def _is_declared(self, now: Target, name: str) -> bool:
        """Whether YAML declares the model; else it lies in a repository, where it is read again, or has come with a load request."""
        if name in now.shelf.routes.routes:
            return True
        return name not in self._source.names() and not any(self._source.was_sent(d.plan.artefact) for d in part(now, name).deployments)

    def _wait(self, revision: int, name: str) -> None:
        if not self._runner.wait_until(lambda status: _is_done(status, revision, name), self._done_s):
            raise DeadlineExceeded(f"'{name}' is not done after {self._done_s:g} s: {'; '.join(self._runner.status.waiting)}")

    def _give_up(self, before: Target, name: str, broken: list[VersionStatus], who: str) -> None:
        self._failed[name] = {v.version: v.reason for v in broken}
        revision = self._runner.change(lambda now: restored(now, before, name), Act(who, f"load {name} failed"), (name,))
        self._wait(revision, name)
        self._tidy()
        said = "; ".join(f"version {v.version} is at UNAVAILABLE state: {v.reason}" for v in broken)
        raise Internal(f"failed to load '{name}', {said}")

    def _tidy(self) -> None:
        target = self._runner.target
        self._source.tidy({d.plan.artefact for d in (*target.deployments, *target.shelf.deployments)})


def _is_done(status: Status, revision: int, model: str) -> bool:
    if status.worked < revision or status.behind or model in status.moving:
        return False
    mine = [v for v in status.versions if v.model == model]
    return all(_broken(v) or (v.state == "ready" and not v.updating) for v in mine)


def _broken(version: VersionStatus) -> bool:
    return version.state == "failed" or (version.state == "ready" and version.updating and version.failures > 0)


def _decoded(files: Mapping[str, str]) -> dict[str, bytes]:
    if len(files) > MAX_FILES:
        raise InvalidArgument(f"{len(files)} files, more than {MAX_FILES}")
    found: dict[str, bytes] = {}
    for path, text in files.items():
        try:
            found[path] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidArgument(f"failed to decode the content of 'file:{path}': {error}") from None
    if (total := sum(map(len, found.values()))) > MAX_FILE_BYTES:
        raise InvalidArgument(f"files of {total} bytes, more than {MAX_FILE_BYTES}")
    return found


def _not_loaded(name: str, error: ServingError) -> ServingError:
    """Return the error in the words that clients look for."""
    if isinstance(error, NotFound | InvalidArgument):
        return Internal(f"failed to load '{name}', failed to poll from model repository: {error.message}")
    return error
