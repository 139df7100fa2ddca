"""What clients ask of the whole engine through a gateway: it is checked and kept here, and answered when every gateway knows.

`WishBook` keeps it beside the sockets of the engine: it survives the controller and ends with the engine. Trace and log settings are the
operators' and each change of them is an event; memory is its client's own, which comes and goes with it, and is none.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from serving.control.event import CLIENT, Event
from serving.errors import AlreadyExists, Internal, InvalidArgument, Unavailable, Unsupported
from serving.wishes import SharedRegion, Wishes

FOLDER = Path("/dev/shm")
MAX_REGIONS = 1024
MAX_MODELS = 4096
"""With trace settings of their own."""

Handler = Callable[[dict[str, Any]], dict[str, Any]]
Edit = Callable[[Wishes], Wishes]
Tell = Callable[[Wishes, Wishes], Iterable[Event]]
"""Returns the events of a change, from the wishes before and after it."""


def untold(_before: Wishes, _after: Wishes) -> Iterable[Event]:
    """Tell of no change."""
    return ()


class WishBook:
    """The wishes of now, in memory and in a file; a file that cannot be read counts as none."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.now = Wishes()
        if file is not None and file.exists():
            try:
                self.now = Wishes.from_json(json.loads(file.read_text()))
            except (ValueError, KeyError, TypeError):
                file.unlink()

    def edit(self, edit: Edit) -> Wishes:
        """Keep what `edit` makes of them under the next number. Raises what `edit` raises."""
        wishes = replace(edit(self.now), number=self.now.number + 1)
        if self._file is not None:
            draft = self._file.with_name(f"{self._file.name}.draft")
            draft.write_text(json.dumps(wishes.to_json()))
            draft.replace(self._file)
        self.now = wishes
        return wishes


class Teller(Protocol):
    """The controller, as far as these handlers know it."""

    def wish(self, edit: Edit, tell: Tell = untold) -> Wishes:
        """Edit the wishes; return when every gateway knows. Raises what `edit` raises, Unavailable where one does not answer.

        What `tell` makes of the change is put on record.
        """

    @property
    def shares_memory(self) -> bool:
        """Clients may register shared memory."""


def handlers(teller: Teller) -> dict[str, Handler]:
    """Return what the desk answers: shm_register, shm_unregister, trace, log."""

    def shm_register(asked: dict[str, Any]) -> dict[str, Any]:
        if not teller.shares_memory:
            raise Unsupported("Client shared memory is disabled")
        region = inspect(str(asked["region"]), str(asked["key"]), int(asked["offset"]), int(asked["nbytes"]))
        teller.wish(lambda wishes: _with(wishes, region))
        return {}

    def shm_unregister(asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["region"]
        teller.wish(lambda w: replace(w, regions=tuple(r for r in w.regions if name and r.name != name)))
        return {}

    def trace(asked: dict[str, Any]) -> dict[str, Any]:
        model = asked["model"]

        def tell(before: Wishes, after: Wishes) -> Iterable[Event]:
            return _changed("trace", model, before.trace.get(model, {}), after.trace.get(model, {}), asked.get("who", CLIENT))

        return {"trace": teller.wish(lambda wishes: _traced(wishes, model, asked["settings"]), tell).trace}

    def log(asked: dict[str, Any]) -> dict[str, Any]:
        def tell(before: Wishes, after: Wishes) -> Iterable[Event]:
            return _changed("log", "", before.log, after.log, asked.get("who", CLIENT))

        return {"log": teller.wish(lambda wishes: replace(wishes, log=_set(wishes.log, asked["settings"])), tell).log}

    return {"shm_register": shm_register, "shm_unregister": shm_unregister, "trace": trace, "log": log}


def inspect(name: str, key: str, offset: int, nbytes: int) -> SharedRegion:
    """Return the region with the file that it lies in. Raises InvalidArgument for a name that is none, and where there is not enough of it.

    A file that cannot be opened is Internal, as in Triton.
    """
    file = key.removeprefix("/")
    if not name or not file or "/" in file or "\0" in file or file in (".", "..") or len(file.encode()) > 255:
        raise InvalidArgument(f"cannot register shared memory region '{name}' - invalid shm key '{key}'")
    try:
        descriptor = os.open(FOLDER / file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Internal(f"Unable to open shared memory region: '{key}' ({error.strerror})") from None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Internal(f"Unable to open shared memory region: '{key}' (not a file)")
    if nbytes <= 0 or offset < 0 or offset + nbytes > status.st_size:
        have = f"offset {offset} and {nbytes} bytes, '{key}' has {status.st_size}"
        raise InvalidArgument(f"failed to register shared memory region '{name}': invalid args: {have}")
    return SharedRegion(name, key, offset, nbytes, status.st_dev, status.st_ino)


def _with(wishes: Wishes, region: SharedRegion) -> Wishes:
    if any(r.name == region.name for r in wishes.regions):
        raise AlreadyExists(f"shared memory region '{region.name}' already in manager")
    if len(wishes.regions) >= MAX_REGIONS:
        raise Unavailable(f"{MAX_REGIONS} shared memory regions are registered; unregister one first")
    return replace(wishes, regions=(*wishes.regions, region))


def _traced(wishes: Wishes, model: str, settings: dict[str, Any]) -> Wishes:
    own = _set(wishes.trace.get(model, {}), settings)
    others = {name: value for name, value in wishes.trace.items() if name != model}
    if len(others) >= MAX_MODELS:
        raise Unavailable(f"{MAX_MODELS} models have trace settings of their own; clear some first")
    return replace(wishes, trace={**others, model: own} if own else others)


def _set(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the new ones; None takes one away."""
    return {key: value for key, value in {**old, **new}.items() if value is not None}


def _changed(kind: str, model: str, before: Mapping[str, Any], after: Mapping[str, Any], who: str) -> Iterable[Event]:
    """Return the event of a change of settings; none where they are as they were."""
    said = [
        f"{name} = {json.dumps(after[name])}" if name in after else f"{name} as by default"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if said:
        of = f" of {model}" if model else ""
        yield Event(f"settings.{kind}", f"{kind} settings{of}: {', '.join(said)}", model, "", who, before=dict(before), after=dict(after))
