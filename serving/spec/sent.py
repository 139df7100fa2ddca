"""SentFiles: files that clients send to be loaded, kept as `MODEL/DIGEST/VERSION/name` in one folder. Nothing is ever written elsewhere."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from serving.errors import InvalidArgument, Unavailable
from serving.names import model_name

_STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z")
MAX_DEPTH = 8


class SentFiles:
    """root: made when the first file comes, for this user alone."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def keep(self, model: str, files: Mapping[str, bytes]) -> Path:
        """Write the files and return their folder; the same files have the same one. Raises InvalidArgument, Unavailable."""
        model_name(model)
        digest = hashlib.sha256()
        for name, content in sorted(files.items()):
            _check(name)
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        home = self._root / model
        final = home / digest.hexdigest()[:32]
        try:
            if not final.is_dir():
                self._write(home, final, files)
        except OSError as error:
            raise Unavailable(f"the files of '{model}' cannot be kept: {error.strerror}") from error
        return final

    def _write(self, home: Path, final: Path, files: Mapping[str, bytes]) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home))
        try:
            for name, content in files.items():
                path = draft / name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.write_bytes(content)
            os.replace(draft, final)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def has(self, path: str) -> bool:
        """Say whether a file lies here."""
        return Path(path).is_relative_to(self._root)

    def tidy(self, used: set[str]) -> None:
        """Remove the folders that none of the used files is in."""
        kept = {Path(p).relative_to(self._root).parts[:2] for p in used if self.has(p)}
        for folder in self._root.glob("*/*"):
            if folder.relative_to(self._root).parts not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _check(name: str) -> None:
    steps = name.split("/")
    if len(name) > 1024 or len(steps) > MAX_DEPTH or not all(_STEP.match(step) and ".." not in step for step in steps):
        raise InvalidArgument(f"'file:{name[:140]}' is not a path such as file:1/model.onnx: no path traversal, at most {MAX_DEPTH} steps")
