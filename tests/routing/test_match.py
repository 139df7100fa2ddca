from __future__ import annotations

from time import process_time

import pytest

from serving.routing import Conditions, Rule, bad_pattern, key_bytes
from serving.routing.match import MAX_KNOWN, MAX_PATTERN_CHARS, MAX_VALUE_BYTES


def header(how: str, text: str, name: str = "x-country") -> Rule:
    return Rule("2", "header", name, how, text)  # type: ignore[arg-type]


def parameter(how: str, text: str, name: str = "country") -> Rule:
    return Rule("2", "parameter", name, how, text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "headers", "parameters", "fits"),
    [
        (header("equals", "de"), {b"x-country": b"de"}, {}, True),
        (header("equals", "de"), {b"x-country": b"de "}, {}, False),
        (header("equals", "de"), {b"x-land": b"de"}, {}, False),
        (header("equals", "de"), {}, {"x-country": "de"}, False),
        (header("equals", "zürich"), {b"x-country": "zürich".encode()}, {}, True),
        (header("matches", "de|ch-.*"), {b"x-country": b"ch-zh"}, {}, True),
        (header("matches", "de|ch-.*"), {b"x-country": b"x-de"}, {}, False),
        (header("matches", ".*"), {b"x-country": b"\xff\x00"}, {}, False),
        (header("matches", ".*"), {b"x-country": b"a" * MAX_VALUE_BYTES}, {}, True),
        (header("matches", ".*"), {b"x-country": b"a" * (MAX_VALUE_BYTES + 1)}, {}, False),
        (parameter("equals", "7"), {}, {"country": 7}, True),
        (parameter("equals", "7"), {}, {"country": "7"}, True),
        (parameter("equals", "true"), {}, {"country": True}, True),
        (parameter("equals", "1"), {}, {"country": True}, False),
        (parameter("matches", "[0-9.]+"), {}, {"country": 2.5}, True),
        (parameter("equals", ""), {}, {"country": ""}, True),
        (parameter("equals", "\ud800"), {}, {"country": "x"}, False),
        (parameter("equals", "x"), {}, {"country": "\ud800"}, False),
    ],
)
def test_a_rule_holds_or_does_not(rule: Rule, headers: dict[bytes, bytes], parameters: dict[str, object], fits: bool) -> None:
    conditions = Conditions([rule])
    for _ in range(2):  # the second time from memory
        assert conditions.find(headers, parameters) == (0 if fits else -1)


def test_the_first_rule_that_fits_counts() -> None:
    conditions = Conditions([header("equals", "a"), header("matches", "a|b"), parameter("equals", "c")])
    assert conditions.find({b"x-country": b"a"}, {}) == 0
    assert conditions.find({b"x-country": b"b"}, {"country": "c"}) == 1
    assert conditions.find({}, {"country": "c"}) == 2


def test_parameters_are_needed_only_where_a_rule_names_one() -> None:
    assert not Conditions([header("equals", "a")]).parameters
    assert Conditions([header("equals", "a"), parameter("equals", "a")]).parameters


def test_no_pattern_takes_long_whatever_comes() -> None:
    """Python's re would need 2^255 steps for the first and 256^5 for the second."""
    conditions = Conditions([header("matches", "(a+)+b"), header("matches", ".*a.*a.*a.*a.*x")])
    start = process_time()
    for i in range(MAX_KNOWN + 10):
        assert conditions.find({b"x-country": b"a" * 250 + b"%05d" % i}, {}) == -1
    assert process_time() - start < 20


@pytest.mark.parametrize("pattern", ["(", "[a", "a{2000}", "(?=a)", r"(a)\1", "(a{1000}){1000}", "\ud800", "a" * (MAX_PATTERN_CHARS + 1)])
def test_a_pattern_that_cannot_be_used_is_said_to_be_so(pattern: str) -> None:
    assert bad_pattern(pattern)


@pytest.mark.parametrize("pattern", ["", "a", ".*", "(?i)de-[a-z]{2}", "é+", "a" * MAX_PATTERN_CHARS])
def test_other_patterns_are_fine(pattern: str) -> None:
    assert not bad_pattern(pattern)


def test_a_key_is_the_same_in_a_header_and_in_a_parameter() -> None:
    assert key_bytes(b"7") == key_bytes("7") == key_bytes(7) == b"7"
    assert key_bytes("é") == "é".encode()
