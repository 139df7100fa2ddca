"""The JSON Schema of a YAML file, made from the face: what editors complete and check against. Draft 2020-12."""

from __future__ import annotations

from typing import Any

from serving.spec.face import EngineFace, SharedFace

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema. It knows names, types, bounds, choices and defaults; what contradicts what, only `load` knows."""
    schema = EngineFace.model_json_schema()
    for face in [*schema["$defs"].values(), schema]:
        _tidy(face, schema["$defs"])
    _inherit(schema["$defs"]["VersionFace"])
    names = {name: name.removesuffix("Face") for name in schema["$defs"]}
    schema["$defs"] = {names[name]: face for name, face in schema["$defs"].items()}
    return {"$schema": DIALECT, "title": "Models to serve", **_renamed(schema, names)}


def _tidy(face: dict[str, Any], faces: dict[str, Any]) -> None:
    """Take out what only pydantic says (titles made of names; `null`, which the YAML refuses), describe every word where it stands."""
    face.pop("title", None)
    for field in face.get("properties", {}).values():
        field.pop("title", None)
        choices = field.get("anyOf", [])
        if {"type": "null"} in choices:
            del field["anyOf"], field["default"]
            field.update(next(c for c in choices if c != {"type": "null"}))
        if "$ref" in field:
            field.setdefault("description", faces[field["$ref"].rpartition("/")[2]]["description"])


def _inherit(version: dict[str, Any]) -> None:
    """Take the defaults of shared fields out of a version: there the default is what its model says."""
    for name in SharedFace.model_fields:
        field = version["properties"][name]
        field.pop("default", None)
        field["description"] += " Left out: as the model says."


def _renamed(value: Any, names: dict[str, str]) -> Any:
    match value:
        case {"$ref": str(ref), **rest}:
            return {"$ref": f"#/$defs/{names[ref.rpartition('/')[2]]}", **_renamed(rest, names)}
        case dict():
            return {k: _renamed(v, names) for k, v in value.items()}
        case list():
            return [_renamed(v, names) for v in value]
        case _:
            return value
