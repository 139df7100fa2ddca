"""Repository: folders in Triton's layout (`NAME/config.pbtxt`, `NAME/VERSION/model.*`) as sources of the YAML that they amount to.

A model without a config.pbtxt is completed from its files, where these tell enough: an ONNX file tells its tensors, and is batched
(by 4 rows, as in Triton) where the first dimension of all of them is of any size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format

from serving.errors import InvalidArgument, NotFound
from serving.names import model_name
from serving.protocol.proto_json import to_plain
from serving.protocol.schema import ModelConfig
from serving.spec import onnx_head, triton_config
from serving.spec.artefact import DEFAULT_ENTRY, PythonFile
from serving.spec.load import Source
from serving.spec.problem import InvalidSpec, Problem

CONFIG = "config.pbtxt"
DEFAULT_MAX_BATCH_SIZE = 4
_VERSION = re.compile(r"(0|[1-9][0-9]{0,17})\Z")
_FILES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("model.onnx",),
    "pytorch": ("model.pt2", "model.pt", "model.ts"),
    "python": ("model.py",),
}
"""What each backend looks for in a version's folder, in this order."""
_BACKENDS = {"onnxruntime_onnx": "onnxruntime", "pytorch_libtorch": "pytorch", "torch_aoti": "pytorch", "onnxruntime": "onnxruntime"}
_RUNTIMES = {".onnx": "onnx", ".pt2": "torch", ".pt": "torch", ".ts": "torch", ".py": "python"}
TRITON_CLASS = "TritonPythonModel"
MAX_LABEL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Read:
    """One model of a repository. notes: settings that cannot be honoured, as sentences."""

    name: str
    source: Source
    notes: tuple[str, ...]


class Repository:
    """Folders that hold models. Nothing is kept: every call looks anew."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = [folder.absolute() for folder in folders]

    def names(self) -> dict[str, list[str]]:
        """Return the models, each with the folders of its versions."""
        return {path.name: versions_in(path) for path in self._models()}

    def folder(self, name: str) -> Path:
        """Raises NotFound where no folder has the model."""
        found = [path for path in self._models() if path.name == name]
        if not found:
            raise NotFound(f"there is no model '{name}' in {', '.join(map(str, self.folders)) or 'any repository'}")
        return found[0]

    def survey(self, names: Iterable[str] | None = None) -> list[Read]:
        """Return all models, or those of these names. Raises InvalidSpec with all that is wrong with them."""
        found: list[Read] = []
        problems = [Problem(str(f), 1, 1, "is not a folder that can be read") for f in self.folders if not _may_read(f)]
        first: dict[str, Path] = {}
        wanted = None if names is None else set(names)
        for path in self._models():
            if wanted is not None and path.name not in wanted:
                continue
            if (earlier := first.setdefault(path.name, path)) is not path:
                problems.append(Problem(str(path), 1, 1, f"there is a model '{path.name}' in {earlier.parent} already"))
                continue
            try:
                found.append(read(path.name, path))
            except InvalidSpec as invalid:
                problems += invalid.problems
        problems += [
            Problem(str(self.folders[0]), 1, 1, f"there is no model '{n}'")
            for n in sorted((wanted or set()) - first.keys())
            if self.folders
        ]
        if problems:
            raise InvalidSpec(problems)
        return found

    def _models(self) -> list[Path]:
        found = []
        for folder in self.folders:
            if _may_read(folder):
                found += [p for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.is_dir()]
        return found


def read(name: str, folder: Path, config_json: str = "") -> Read:
    """Return one model; `config_json` in place of its config.pbtxt. Raises InvalidSpec."""
    file = folder / CONFIG
    try:
        model_name(name)
        config = triton_config.parse_json(config_json) if config_json else _config(file)
        if config.name and config.name != name:
            raise InvalidArgument(f"name is '{config.name}', and the model's folder '{name}'")
        model, notes = _model(config, folder)
    except text_format.ParseError as error:
        at = error.GetLine() or 1, error.GetColumn() or 1
        raise InvalidSpec([Problem(str(file), *at, str(error).partition(" : ")[2] or str(error))]) from None
    except (InvalidArgument, OSError) as error:
        raise InvalidSpec([Problem(str(file), 1, 1, str(error))]) from None
    said = tuple(f"{file}: not honoured: {note}" for note in notes)
    return Read(name, Source(str(file), yaml.safe_dump({"models": {name: model}}), folder, generated=True), said)


def versions_in(folder: Path) -> list[str]:
    try:
        found = [p.name for p in folder.iterdir() if _VERSION.match(p.name) and p.is_dir()]
    except OSError:
        return []
    return sorted(found, key=int)


def _config(file: Path) -> Any:
    return triton_config.parse_text(file.read_text()) if file.exists() else ModelConfig()


def _model(config: Any, folder: Path) -> tuple[dict[str, Any], list[str]]:
    triton_config.refuse(config)
    there = versions_in(folder)
    if not there:
        raise InvalidArgument(f"{folder} has no folder of a version, such as {folder}/1")
    chosen, missing = triton_config.served_versions(config, there)
    backend = _backend(config)
    files = {v: _artefact(folder / v, backend, config.default_model_filename) for v in chosen}
    if not config.input or not config.output:
        _complete(config, files[chosen[-1]])
    model, notes = triton_config.translate(config, lambda label: _lines(folder, label))
    model["versions"] = {v: _version(config, path, folder) for v, path in files.items()}
    if len(chosen) > 1:
        model["traffic"] = {"stable": chosen[-1]}
    return model, missing + notes


def _backend(config: Any) -> str:
    asked = config.backend or config.platform
    backend = _BACKENDS.get(asked, asked)
    if backend and backend not in _FILES:
        raise InvalidArgument(f"backend '{asked}' is not supported, expected one of {', '.join(_FILES)}")
    return str(backend)


def _artefact(folder: Path, backend: str, named: str) -> Path:
    names = (named,) if named else _FILES[backend] if backend else tuple(n for files in _FILES.values() for n in files)
    for name in names:
        if "/" in name or name.startswith("."):
            raise InvalidArgument(f"default_model_filename '{name}' is not the name of a file in the version's folder")
        if (folder / name).exists():
            return folder / name
    raise InvalidArgument(f"{folder} has no {' or '.join(names)}")


def _complete(config: Any, artefact: Path) -> None:
    """Put into the config what an ONNX file tells and it leaves out; other runtimes tell it when they load, or need it declared."""
    if artefact.suffix != ".onnx":
        if artefact.suffix in (".pt", ".ts"):
            raise InvalidArgument(f"{artefact.name} does not say what it takes and gives; {CONFIG} has to, with input and output")
        return
    sides = dict(zip(("input", "output"), onnx_head.tensors(artefact), strict=True))
    shapes = [t["shape"] for tensors in sides.values() for t in tensors]
    if not config.max_batch_size and not config.input and not config.output and all(s and s[0] == -1 for s in shapes):
        config.max_batch_size = DEFAULT_MAX_BATCH_SIZE
    for side, tensors in sides.items():
        if not getattr(config, side):
            for t in tensors:
                dims = t["shape"][1:] if config.max_batch_size else t["shape"]
                kind = "TYPE_STRING" if t["dtype"] == "BYTES" else f"TYPE_{t['dtype']}"
                getattr(config, side).add(name=t["name"], data_type=kind, dims=dims)


def _version(config: Any, path: Path, folder: Path) -> dict[str, Any]:
    runtime = _RUNTIMES.get(path.suffix)
    if runtime is None:
        raise InvalidArgument(f"'{path.name}' is none of {', '.join(_RUNTIMES)}")
    version: dict[str, Any] = {"artefact": str(path.relative_to(folder)), "runtime": runtime}
    if runtime == "python":
        code = PythonFile(path)
        if TRITON_CLASS in code.classes:
            return version | {"entry": TRITON_CLASS, "options": {"model_config": _told(config, folder.name)}}
        options = {key: value.string_value for key, value in config.parameters.items()}
        entry = options.pop("entry", "")
        if not entry and DEFAULT_ENTRY not in code.classes and len(code.classes) == 1:
            entry = code.classes[0]
        version |= {"options": options} | ({"entry": entry} if entry else {})
    return version


def _told(config: Any, name: str) -> str:
    """Return a ModelConfig as the JSON text that Triton hands to Python models."""
    if not config.input or not config.output:
        raise InvalidArgument(f"a {TRITON_CLASS} does not say what it takes and gives; {CONFIG} has to, with input and output")
    if config.HasField("sequence_batching"):
        raise InvalidArgument(f"a {TRITON_CLASS} is not served with sequences")
    return json.dumps({**to_plain(config), "name": name})


def _lines(folder: Path, name: str) -> list[str]:
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        raise InvalidArgument(f"label_filename '{name}' is not in the model's folder")
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise InvalidArgument(f"label_filename '{name}' is larger than {MAX_LABEL_BYTES} bytes")
    return path.read_text().splitlines()


def _may_read(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
