"""What a model's file tells from outside: which runtime reads it, which classes it has, what its contents' digest is. Runs none of it."""

from __future__ import annotations

import ast
import hashlib
import os
import warnings
from pathlib import Path

from serving.spec.problem import shown

ENDINGS: dict[str, tuple[str, ...]] = {"torch": (".pt2", ".pt", ".ts", ".py"), "python": (".py",), "onnx": (".onnx",)}
"""What each runtime reads."""

TELLS_SIGNATURE = (".pt2", ".py", ".onnx")
"""Files that can say what the model takes and gives (a class may, too)."""

DEFAULT_ENTRY = "Model"
"""The class that is taken from a .py file where no entry is given."""

_MADE_BY = {"digits": "scripts/quickstart", "imagenet": "scripts/quickstart --imagenet"}


def located(folder: Path, text: str) -> Path:
    """Return the absolute path of a file that the YAML in `folder` names."""
    return Path(os.path.normpath(folder.absolute() / text))


def ending(path: Path) -> str:
    return path.suffix


def runtimes_of(path: Path) -> list[str]:
    """Return the runtimes that read files with this ending."""
    return [name for name, endings in ENDINGS.items() if ending(path) in endings]


def missing(path: Path) -> str | None:
    """Return why the file cannot be used, None where it can."""
    try:
        if path.is_file():
            return None if os.access(path, os.R_OK) else "may not be read by this user"
        if path.is_dir():
            return "is a folder"
    except (OSError, ValueError):
        pass
    makers = [maker for name, maker in _MADE_BY.items() if ("artefacts", name) in zip(path.parts, path.parts[1:], strict=False)]
    return f"does not exist{f'; {makers[0]} makes it' if makers else ''}"


def digest(path: Path) -> str:
    """Return the SHA-256 of the contents, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PythonFile:
    """The names that a Python file binds at its top, found without running it.

    error    why it is no Python, or ""
    classes  defined in it
    names    all that could be an entry; None where a star import hides some
    """

    def __init__(self, path: Path) -> None:
        self.error = ""
        self.classes: list[str] = []
        self.names: set[str] | None = set()
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
        except SyntaxError as error:
            self.error = f"line {error.lineno}: {error.msg}"
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            self.error = shown(str(error))
        else:
            self._read(tree)

    def _read(self, tree: ast.Module) -> None:
        found: set[str] = set()
        for node in ast.walk(tree):
            match node:
                case ast.ClassDef() if node in tree.body:
                    self.classes.append(node.name)
                case ast.Import() | ast.ImportFrom():
                    found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                case ast.Name(ctx=ast.Store()):
                    found.add(node.id)
                case ast.ClassDef():
                    found.add(node.name)
        self.names = None if "*" in found else found | set(self.classes)
