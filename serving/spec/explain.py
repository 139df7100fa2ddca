"""Turns what pydantic found into sentences: what was expected, what is there, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from serving.spec.document import describe
from serving.spec.face import EngineFace, ModelFace
from serving.spec.problem import Path, dotted, quoted


@dataclass(frozen=True, slots=True)
class Explained:
    """One error: the place, the sentence, and the place that was probably meant (the same but for an unknown key)."""

    path: Path
    message: str
    meant: Path


def explain(at: Path, error: ErrorDetails) -> Explained:
    """Return one error of pydantic in our words; `at` is where the model that raised it stands in the document."""
    path: Path = (*at, *error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown_key(path)
    return Explained(path, _sentence(path, error), path)


def _sentence(path: Path, error: ErrorDetails) -> str:
    got, ctx = error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{dotted(path[:-1])}: '{path[-1]}' is missing"
        case "too_short":
            return f"{dotted(path)} is empty, expected at least one entry"
        case "literal_error":
            return _not_one_of(path, got, ctx["expected"])
        case "greater_than_equal" | "less_than_equal" | "greater_than" as kind:
            return f"{dotted(path)}: expected {_BOUNDS[kind]} {next(iter(ctx.values())):.12g}, got {got}"
        case kind:
            return f"{dotted(path)}: expected {_EXPECTED.get(kind, error['msg'])}, got {describe(got)}{_hint(kind, got)}"


_BOUNDS = {"greater_than_equal": "at least", "less_than_equal": "at most", "greater_than": "more than"}
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "string_too_short": "text",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}


def _hint(kind: str, got: Any) -> str:
    """Return what to write instead, where one can guess; with its "; "."""
    number = kind in ("int_type", "float_type") and isinstance(got, str)
    match kind, got:
        case "string_type", bool() | int() | float():
            return f"; write it in quotes: '{str(got).lower() if isinstance(got, bool) else got}'"
        case "bool_type", str() if got.lower() in ("yes", "on", "y"):
            return "; write true"
        case "bool_type", str() if got.lower() in ("no", "off", "n"):
            return "; write false"
        case "list_type", int():
            return f"; write [{got}]"
        case _, str() if number and re.fullmatch(r"[-+]?0[0-9]+", got):
            return "; a number has no leading zero"
        case _, str() if number and re.fullmatch(r"[0-9.]+ *(us|ms|s|m|min|h|b|k|kb|kib|mb|mib|gb|gib|g)", got, re.IGNORECASE):
            return "; the unit is in the name of the key"
        case _, str() if number and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", got):
            return "; write it without quotes"
        case _:
            return ""


def _unknown_key(path: Path) -> Explained:
    name, parent = str(path[-1]), path[:-1]
    here = _face_at(parent)
    said = f"unknown key {quoted(name)}{f' in {dotted(parent)}' if parent else ''}"
    inner = [(section, key) for section, face in _sections(here) for key in face.model_fields]
    for section, key in inner:
        if key == name:
            return Explained(path, f"{said}; it belongs under '{section}'", (*parent, section, key))
    if near := nearest(name, here.model_fields):
        return Explained(path, f"{said}; did you mean '{near}'?", (*parent, near))
    for depth, owner in ((2, ModelFace), (0, EngineFace)):
        if name in owner.model_fields and len(parent) > depth:
            place = f"to {dotted(path[:depth])} itself" if depth else "at the top of the file"
            return Explained(path, f"{said}; it belongs {place}", (*path[:depth], name))
    if near := nearest(name, [key for _, key in inner]):
        section = next(section for section, key in inner if key == near)
        return Explained(path, f"{said}; did you mean '{near}' under '{section}'?", (*parent, section, near))
    return Explained(path, f"{said}; expected one of {', '.join(here.model_fields)}", path)


def _face_at(path: Path) -> type[BaseModel]:
    """Return the model that describes the mapping at `path`."""
    annotation: Any = EngineFace
    for step in path:
        face = _face_of(annotation)
        annotation = face.model_fields[str(step)].annotation if face else get_args(annotation)[-1]
    found = _face_of(annotation)
    assert found is not None, f"{path} is no mapping of known keys"
    return found


def _face_of(annotation: Any) -> type[BaseModel] | None:
    """Return X of `X` and of `X | None`; None of dict[str, X] and list[X]."""
    if get_origin(annotation) in (dict, list):
        return None
    return next((a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)), None)


def _sections(face: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the keys whose values are mappings of known keys."""
    for name, field in face.model_fields.items():
        if inner := _face_of(field.annotation):
            yield name, inner


def _not_one_of(path: Path, got: Any, expected: str) -> str:
    choices = re.findall(r"'([^']+)'", expected)
    said = f"{dotted(path)}: expected one of {', '.join(choices)}, got {describe(got)}"
    near = (_DTYPES.get(got.lower()) if path[-1] == "dtype" else None) or nearest(got, choices) if isinstance(got, str) else None
    return f"{said}; did you mean '{near}'?" if near else said


_DTYPES = {
    "float": "FP32", "float16": "FP16", "half": "FP16", "float32": "FP32", "float64": "FP64", "double": "FP64", "bfloat16": "BF16",
    "int": "INT64", "long": "INT64", "byte": "UINT8", "boolean": "BOOL", "string": "BYTES", "str": "BYTES", "object": "BYTES",
}  # fmt: skip


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that `name` was probably meant to be; None where none comes near."""
    by_lower = {n.lower(): n for n in names}
    found = difflib.get_close_matches(name[:100].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None
