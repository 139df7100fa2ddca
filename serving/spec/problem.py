"""Problem: one thing that is wrong with a file, and where. InvalidSpec: all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from serving.errors import SpecError

Path = tuple[str | int, ...]
"""A place in a YAML document: ("models", "mlp", "signature", "inputs", 0, "dtype")."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong, where (lines and columns count from 1), and in the message what would be right."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at `path`, before its line is known; it says nothing new where one of `involved` was wrong already."""

    path: Path
    message: str
    involved: tuple[Path, ...] = ()
    at_key: bool = False


class InvalidSpec(SpecError):
    """Everything that was found wrong, in the order of the files; one line of the message is one problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: Path) -> str:
    """Return a path as people write it: `models.mlp.signature.inputs[0].dtype`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in path)
    return text.removeprefix(".")


def printable(text: str) -> str:
    """Return text that a terminal shows as it is: what is no character to look at becomes its escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(name: str) -> str:
    """Return a name that is safe on one line of a terminal: as it is where that is plain, else quoted and cut."""
    return name if name.isprintable() and name and " " not in name and len(name) <= 80 else quoted(name)


def quoted(text: str) -> str:
    """Return text in single quotes, on one line, at most about 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
