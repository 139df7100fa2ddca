"""Model repositories as commands are given them: what is in them, and what of their settings cannot be honoured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.cli.output import fail, say
from serving.cluster.boot import ModelControlMode
from serving.spec import Repository, Source

REPOSITORY_HELP = "Folder of models in Triton's layout (NAME/VERSION/model.*, config.pbtxt). May be given several times, beside FILEs."
ALL = "*"


@dataclass(frozen=True, slots=True)
class Found:
    """Models that are to be served from the start, and what has to be said of them."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def survey(folders: Sequence[Path], control: ModelControlMode = "none", names: Sequence[str] = ()) -> Found:
    """Return the models of the folders that are to be loaded: all of them, or with explicit control those of these names.

    Raises InvalidSpec with everything that is wrong with them.
    """
    if names and control != "explicit":
        fail("--load-model is for --model-control explicit; without it all models are loaded")
    wanted = None if control == "none" or ALL in names else names
    found = Repository(folders).survey(wanted)
    return Found(tuple(r.source for r in found), tuple(note for r in found for note in r.notes))


def print_warnings(notes: Iterable[str]) -> None:
    for note in notes:
        say(f"warning: {note}")
