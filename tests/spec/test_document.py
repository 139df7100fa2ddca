from __future__ import annotations

from typing import Any

import pytest

from serving.spec.document import MAX_DEPTH, Document, describe
from serving.spec.problem import InvalidSpec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-7", -7), ("+7", 7), ("0", 0), ("0x1F", 31), ("0o17", 15), ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0),
        ("true", True), ("False", False), ("TRUE", True), ("~", None), ("null", None), ("", None), ("[1, [2]]", [1, [2]]),
        # What YAML 1.1 takes for something else.
        ("no", "no"), ("on", "on"), ("Y", "Y"), ("010", "010"), ("1_000", "1_000"), ("12:30", "12:30"), ("2024-01-31", "2024-01-31"),
        (".inf", ".inf"), (".nan", ".nan"), ("0b1", "0b1"), ("=", "="), ("1.2.3", "1.2.3"), ("'1'", "1"),
        ("!!str 1", "1"), ("!!int '5'", 5),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    document = Document("f.yaml", f"a: {text}")
    assert (document.data, document.problems) == ({"a": value}, [])
    assert type(document.data["a"]) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert list(Document("f", "1: a\n'2': b\nno: c\n1.5: d\n~: e\n").data) == ["1", "2", "no", "1.5", "~"]


def test_a_merged_mapping_gives_way_to_own_keys_and_keeps_its_places() -> None:
    document = Document("f", "base: &b {x: 1, y: 2}\nmore: &m {y: 3, z: 4}\nmodel: {<<: [*b, *m], x: 9}\nnested: {<<: {<<: *b}}\n")
    assert document.data["model"] == {"x": 9, "y": 2, "z": 4}
    assert document.data["nested"] == {"x": 1, "y": 2}
    assert str(document.problem(("model", "z"), "here")) == "f:2:20: here"


def test_a_merge_of_something_else_is_a_problem() -> None:
    assert [str(p) for p in Document("f", "a: {<<: 5}").problems] == ["f:1:9: '<<' takes a mapping or a list of mappings"]


def test_an_alias_that_merges_itself_ends() -> None:
    assert Document("f", "a: &a {<<: *a, x: 1}").data == {"a": {"x": 1}}


@pytest.mark.parametrize(
    ("path", "at_key", "place"),
    [
        (("a",), False, "1:1"),  # a block's value starts below; its key is what people look for
        (("a", "b"), False, "2:6"),
        (("a", "b"), True, "2:3"),
        (("a", "list", 1), False, "3:13"),
        (("a", "missing"), False, "1:1"),
        (("a", "b", "missing", 3), False, "2:3"),
        ((), False, "1:1"),
    ],
)
def test_a_problem_stands_where_people_look(path: tuple[str | int, ...], at_key: bool, place: str) -> None:
    document = Document("f", "a:\n  b: 1\n  list: [2, 3]\n")
    assert str(document.problem(path, "here", at_key=at_key)) == f"f:{place}: here"


def test_a_number_that_cannot_be_kept_leaves_a_broken_place() -> None:
    document = Document("f", "a: 1e999\nb: !!int x\n")
    assert [str(p) for p in document.problems] == ["f:1:4: a: the number 1e999 is too large", "f:2:4: b: 'x' is not a number"]
    assert document.broken == {("a",), ("b",)}


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "[" * 20_000,
        "a: &a [x, x, x, x, x, x, x, x]\n"
        + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 8)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)),
    ],
    ids=["deep", "far too deep", "a billion laughs"],
)
def test_a_file_that_would_eat_the_machine_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"nested more than|more than 200000 values"):
        Document("f", text)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "nothing"), (True, "true"), (5, "the number 5"), ("a\nb", r"the text 'a\nb'"), ([], "a list"), ({}, "a mapping")],
)
def test_values_are_described_in_words(value: Any, words: str) -> None:
    assert describe(value) == words
