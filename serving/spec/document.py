"""Document: YAML text as plain values, with the place of each of them.

The values follow YAML 1.2's core schema, which is what editors check against, not the 1.1 of PyYAML: `no`, `on` and `12:30` are
text, `1e3` is a number, and a number with a leading zero is text (1.1 reads it as octal, 1.2 as decimal: nobody can tell).
Keys are always text, so version 1 is "1" whether it is quoted or not. Duplicate keys are problems; `<<` merges as usual.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from serving.spec.problem import InvalidSpec, Path, Problem, dotted, printable, quoted, shown

MAX_BYTES = 4 << 20
MAX_DEPTH = 40
MAX_VALUES = 200_000
"""Bounds on what a file may hold; aliases that refer to aliases grow without end."""

_INTEGERS = range(-(1 << 63), 1 << 63)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (PyYAML's own attribute; add_implicit_resolver copies it)


for _kind, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", [*"tTfF"]),
    ("int", r"(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)\Z", [*"-+0123456789"]),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*|(?=[eE])))(?:[eE][-+]?[0-9]+)?\Z", [*"-+.0123456789"]),
    ("merge", r"<<\Z", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(_pattern), _first)


class Document:
    """One file, read.

    data      its mapping
    problems  found while reading; they do not stop the checking of the rest
    broken    where `data` holds a stand-in because of such a problem
    """

    def __init__(self, file: str, text: str) -> None:
        """Read YAML text. Raises InvalidSpec where it is no YAML, or no mapping."""
        self.file = file
        self.problems: list[Problem] = []
        self.broken: set[Path] = set()
        self._keys: dict[Path, Node] = {}
        self._values: dict[Path, Node] = {}
        self._count = 0
        self._open: set[int] = set()
        root = self._compose(text)
        data = {} if root is None else self._build(root, (), 0)
        if not isinstance(data, dict):
            raise InvalidSpec([self._at(root, f"expected a mapping such as 'models:', got {describe(data)}")])
        self.data: dict[str, Any] = data

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """Return a problem with the value at `path`, or with its key; where neither is there, with what is around it."""
        key, value = self._keys.get(path), self._values.get(path)
        if value is None and path:
            return self.problem(path[:-1], message, at_key=True)
        # The value of a block stands on the next line; its key is what people look for.
        below = key is not None and value is not None and value.start_mark.line != key.start_mark.line
        return self._at(key if key is not None and (at_key or below) else value, message)

    def _at(self, node: Node | None, message: str) -> Problem:
        mark = node.start_mark if node else None
        return Problem(self.file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, printable(message))

    def _compose(self, text: str) -> Node | None:
        if len(text) > MAX_BYTES:
            raise InvalidSpec([Problem(self.file, 1, 1, f"the file is larger than {MAX_BYTES >> 20} MiB")])
        try:
            loader = _Loader(text)
            try:
                return loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise InvalidSpec([Problem(self.file, line, column, printable(_plainly(error)))]) from None
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            line, column = before.count("\n") + 1, error.position - before.rfind("\n")
            raise InvalidSpec([Problem(self.file, line, column, "a character that YAML does not allow")]) from None
        except RecursionError:
            raise InvalidSpec([Problem(self.file, 1, 1, _TOO_DEEP)]) from None
        except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF" and the like
            raise InvalidSpec([Problem(self.file, 1, 1, "not YAML: an escape that is no character")]) from None

    def _build(self, node: Node, path: Path, depth: int) -> Any:
        self._values[path] = node
        self._count += 1
        if depth > MAX_DEPTH:
            raise InvalidSpec([self._at(node, _TOO_DEEP)])
        if self._count > MAX_VALUES:
            raise InvalidSpec([self._at(node, f"more than {MAX_VALUES} values, aliases counted each time")])
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            raise InvalidSpec([self._at(node, f"{dotted(path) or 'the file'} contains itself through an alias")])
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return {name: self._build(value, (*path, name), depth + 1) for name, value in self._entries(node, path).items()}
            assert isinstance(node, SequenceNode)
            return [self._build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _entries(self, node: MappingNode, path: Path) -> dict[str, Node]:
        """Return the entries of a mapping, its own before those that it merges."""
        entries: dict[str, Node] = {}
        merged: list[tuple[Node, Node]] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                where = f"in {dotted(path)}" if path else "at the top"
                self.problems.append(self._at(key, f"a key {where} is {describe(_kind_of(key))}; it has to be text"))
            elif key.tag == f"{_TAG}merge":
                merged += self._merged(value, set())
            elif not self._is_text(key):
                continue
            elif key.value in entries:
                first = self._keys[(*path, key.value)].start_mark
                message = f"{dotted((*path, key.value))} is given twice, first in line {first.line + 1}"
                self.problems.append(self._at(key, message))
            else:
                entries[key.value] = value
                self._keys[(*path, key.value)] = key
        for key, value in merged:
            if isinstance(key, ScalarNode) and key.value not in entries and self._is_text(key):
                entries[key.value] = value
                self._keys[(*path, key.value)] = key
        return entries

    def _merged(self, value: Node, seen: set[int]) -> list[tuple[Node, Node]]:
        """Return the entries that `<<: value` brings, those of the first source first."""
        found: list[tuple[Node, Node]] = []
        for source in value.value if isinstance(value, SequenceNode) else [value]:
            if not isinstance(source, MappingNode):
                self.problems.append(self._at(source, "'<<' takes a mapping or a list of mappings"))
            elif id(source) not in seen:
                seen.add(id(source))
                for key, inner in source.value:
                    found += self._merged(inner, seen) if key.tag == f"{_TAG}merge" else [(key, inner)]
        return found

    def _is_text(self, node: ScalarNode) -> bool:
        """Say whether the scalar can be printed and sent; a lone surrogate ("\\ud800") cannot."""
        try:
            node.value.encode()
        except UnicodeEncodeError:
            self.problems.append(self._at(node, "text that is not Unicode: half of a surrogate pair"))
            return False
        return True

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        tag, text = node.tag.removeprefix(_TAG), node.value
        match tag:
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "int" | "float":
                return self._number(node, path, tag)
            case "str" | "merge" if self._is_text(node):
                return text
            case "str":
                self.broken.add(path)
            case _:
                self._stand_in(node, path, f"the tag {shown(node.tag.replace(_TAG, '!!'))} is not known here")
        return ""

    def _number(self, node: ScalarNode, path: Path, tag: str) -> int | float:
        text = node.value
        try:
            value = (int(text, 0) if text[:2] in ("0x", "0o") else int(text)) if tag == "int" else float(text)
        except ValueError:
            self._stand_in(node, path, f"{quoted(text)} is not a number")
            return 0
        if (isinstance(value, int) and value not in _INTEGERS) or not math.isfinite(value):
            self._stand_in(node, path, f"the number {shown(text)} is too large")
            return 0
        return value

    def _stand_in(self, node: Node, path: Path, message: str) -> None:
        self.broken.add(path)
        self.problems.append(self._at(node, f"{dotted(path)}: {message}"))


def describe(value: Any) -> str:
    """Return what a value is, in the words of an error message: "the text 'two'", "the number 5", "a list"."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {quoted(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

_PLAIN = (
    ("cannot start any token", "a character that cannot stand here; YAML is indented with spaces, and special characters need quotes"),
    ("mapping values are not allowed here", "a second ': ' on one line; put text that holds ': ' in quotes, or check the indentation"),
    ("could not find expected ':'", "expected 'key: value'"),
    ("expected a single document", ""),
    ("but found another document", "a second document starts here; a file holds one"),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("found undefined alias", ""),
)  # fmt: skip


def _plainly(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "cannot be read"
    words = next((words for sign, words in _PLAIN if sign in problem and words), problem)
    return f"not YAML: {words}"


def _kind_of(node: Node) -> list[Any] | dict[str, Any]:
    return [] if isinstance(node, SequenceNode) else {}
