"""What comes in a request that says what should run: YAML texts or a Target; and the numbers of what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from serving.control.soundness import sound
from serving.errors import InvalidArgument
from serving.plan import Target

Number = Annotated[int, Field(ge=0, le=1 << 53)]
"""Of a revision, an event or a plan; more than that the database cannot be asked for."""


Reason = Annotated[str, Field(max_length=2000)]
"""Why; it stands in events, which are sent to others."""


Name = Annotated[str, Field(max_length=4096)]
Content = Annotated[str, Field(max_length=32 << 20)]


class File(BaseModel):
    """YAML text; paths in it start from `folder` on the engine's machine."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    text: Content
    folder: str = "."


class Text(BaseModel):
    """The YAML that a Target was made from, kept with its revision."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    text: Content


class Intent(BaseModel):
    """What should run. `replace`: nothing else should."""

    model_config = ConfigDict(extra="forbid")
    target: dict[str, Any] | None = None
    files: list[File] | None = None
    replace: bool = False


Parse = Callable[[list[File]], Target]


def target_of(target: dict[str, Any] | None, files: list[File] | None, parse: Parse) -> Target:
    """Return what the files say, else the target. Raises InvalidArgument where there is neither, or where it is none that can be served."""
    if files is not None:
        return parse(files)
    if target is None:
        raise InvalidArgument("give 'target' or 'files'")
    try:
        found = Target.from_json(target)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidArgument(f"'target' is not a Target: {type(error).__name__}: {error}") from error
    return sound(found)
