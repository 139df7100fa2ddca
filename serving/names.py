"""Names and ids, checked once where they enter.

A model name is what clients put into a path, so it may hold letters, digits, `_ - . :` and `/`-free text only.
A version is a decimal integer written as text ("1", "12"): Triton's paths and perf_analyzer parse it as a number.
"""

from __future__ import annotations

import re
from typing import NewType

from serving.errors import InvalidArgument

ModelName = NewType("ModelName", str)
VersionName = NewType("VersionName", str)

_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,17})\Z")


def model_name(text: str) -> ModelName:
    """Return `text` as a model name. Raises InvalidArgument that says which names are allowed."""
    if not _MODEL.match(text) or ".." in text:
        raise InvalidArgument(
            f"'{text[:140]}' is not a model name: 1 to 128 letters, digits, '_', '-' or '.', not starting with '-' or '.'"
        )
    return ModelName(text)


def version_name(text: str) -> VersionName:
    """Return `text` as a version. Raises InvalidArgument with the text that Triton's clients look for."""
    if not _VERSION.match(text):
        raise InvalidArgument(
            f"failed to get model version from specified version string '{text[:80]}' (a version is a whole number, such as 1)"
        )
    return VersionName(text)


def newest(versions: list[str]) -> str:
    """Return the highest of some version names, compared as numbers."""
    return max(versions, key=int)
