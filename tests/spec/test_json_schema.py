from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from serving.spec import InvalidSpec, Source, json_schema, parse
from serving.spec.artefact import ENDINGS
from serving.spec.document import Document
from serving.spec.face import DTypeLabel, Runtime
from serving.tensor import DType
from tests.spec.test_load import FULL
from tests.spec.test_messages import CASES

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_a_schema() -> None:
    VALIDATOR.check_schema(SCHEMA)


def test_the_schema_takes_what_the_engine_takes() -> None:
    assert not list(VALIDATOR.iter_errors(Document("f", FULL).data))


@pytest.mark.parametrize(
    "name",
    [
        "misspelt at the top", "misspelt in a model", "belongs further in", "text for a number", "number in quotes", "leading zero", "yes",
        "too small", "too large", "edge", "execution", "runtime", "dtype in lower case", "no versions", "empty versions", "no artefact",
        "no outputs", "no stable", "model name", "version name", "nothing for a signature", "models are nothing", "a model is text",
    ],
)  # fmt: skip
def test_the_schema_refuses_what_a_look_at_one_value_can_tell(name: str) -> None:
    assert list(VALIDATOR.iter_errors(Document("f", CASES[name][0]).data))


def test_every_word_has_a_description_and_every_mapping_is_closed() -> None:
    faces: dict[str, Any] = {"top": SCHEMA, **SCHEMA["$defs"]}
    for face in faces.values():
        assert face["additionalProperties"] is False
        assert face["description"]
        for name, field in face["properties"].items():
            assert field.get("description"), name
            assert "title" not in field


def test_a_version_shows_no_defaults_where_its_model_gives_them() -> None:
    version, model = SCHEMA["$defs"]["Version"]["properties"], SCHEMA["$defs"]["Model"]["properties"]
    assert "default" not in version["replicas"]
    assert model["replicas"]["default"] == 1


def test_words_of_the_face_are_those_of_the_engine() -> None:
    assert get_args(DTypeLabel) == tuple(d.label for d in DType)
    assert set(get_args(Runtime)) == set(ENDINGS)


def test_what_the_schema_takes_but_the_rules_do_not_is_a_contradiction_or_a_missing_file() -> None:
    taken = {name for name, (text, _) in CASES.items() if not name.startswith(("not", "key", "tab")) and _fits(text)}
    assert {"delay without batches", "no such file", "two versions, no traffic", "stable is no version"} <= taken
    for name in taken:
        with pytest.raises(InvalidSpec):
            parse([Source("f", CASES[name][0], Path("/nowhere"))])


def _fits(text: str) -> bool:
    try:
        return not list(VALIDATOR.iter_errors(Document("f", text).data))
    except InvalidSpec:
        return False
