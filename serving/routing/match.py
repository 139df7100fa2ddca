"""Conditions: rules, ready to be held against the headers and parameters of a request.

Patterns are RE2's: they take time in proportion to the text, whatever the pattern. Python's own `re` can be made to take for ever, and
header values come from strangers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import re2

from serving.routing.route import Rule

MAX_PATTERN_CHARS = 256
MAX_VALUE_BYTES = 256
"""A longer value matches no pattern."""
MAX_PATTERN_BYTES = 1 << 20
"""Memory of one compiled pattern."""
MAX_KNOWN = 1024
"""Values whose answer a pattern keeps: RE2 costs 4 µs through Python, a look-up 0.1."""


class Conditions:
    """The rules of one route. `find_*` return the place of the first rule that fits, -1 where none does."""

    __slots__ = ("_tests", "parameters")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._tests = [_Test(rule) for rule in rules]
        self.parameters = any(rule.by == "parameter" for rule in rules)
        """A rule is about parameters, which stand in a request's body."""

    def find(self, headers: Mapping[bytes, bytes], parameters: Mapping[str, object]) -> int:
        for i, test in enumerate(self._tests):
            value: object = headers.get(test.header) if test.header else parameters.get(test.parameter)
            if value is not None and test.holds(key_bytes(value)):
                return i
        return -1


class _Test:
    """One rule's question to a value."""

    __slots__ = ("_known", "_pattern", "_text", "header", "parameter")

    def __init__(self, rule: Rule) -> None:
        self.header = rule.name.encode() if rule.by == "header" else b""
        self.parameter = rule.name
        self._text = key_bytes(rule.text)
        self._pattern = _compiled(rule.text) if rule.how == "matches" else None
        self._known: dict[bytes, bool] = {}

    def holds(self, value: bytes) -> bool:
        pattern = self._pattern
        if pattern is None:
            return value == self._text
        known = self._known.get(value)
        if known is None:
            known = len(value) <= MAX_VALUE_BYTES and pattern.fullmatch(value) is not None
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            if len(value) <= MAX_VALUE_BYTES:
                self._known[value] = known
        return known


def key_bytes(value: object) -> bytes:
    """Return a header's or parameter's value as the bytes that are compared and hashed: 7, "7" and b"7" are the same."""
    if type(value) is bytes:
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode("utf-8", "surrogatepass")


def bad_pattern(pattern: str) -> str:
    """Return what is wrong with a pattern, "" where it can be used."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"{len(pattern)} characters, of at most {MAX_PATTERN_CHARS}"
    try:
        _compiled(pattern)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    except UnicodeEncodeError:
        return "not text"
    return ""


def _compiled(pattern: str) -> Any:
    """Return RE2's pattern. Raises re2.error."""
    options = re2.Options()
    options.max_mem = MAX_PATTERN_BYTES
    options.log_errors = False
    options.never_capture = True
    return re2.compile(pattern, options)
