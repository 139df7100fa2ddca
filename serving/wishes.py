"""Wishes: what clients have asked of the whole engine and every gateway has to know: shared memory, trace and log settings. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Settings = Mapping[str, Any]
"""Values by name; only those that were set."""


@dataclass(frozen=True, slots=True)
class SharedRegion:
    """A client's shared memory, as it was when it was registered. device, inode: of the file, which another may have replaced since."""

    name: str
    key: str
    offset: int
    nbytes: int
    device: int = 0
    inode: int = 0


@dataclass(frozen=True, slots=True)
class Wishes:
    """number rises with each change. trace: by model, "" for all."""

    number: int = 0
    regions: tuple[SharedRegion, ...] = ()
    trace: Mapping[str, Settings] = field(default_factory=dict)
    log: Settings = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Wishes:
        return cls(value["number"], tuple(SharedRegion(**r) for r in value["regions"]), value["trace"], value["log"])
