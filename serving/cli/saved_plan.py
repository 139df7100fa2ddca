"""SavedPlan: what `serving plan --out` writes and `serving apply` takes: the target, the base that it stands on, and what it will do."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from serving.cli.output import fail
from serving.plan import Target
from serving.spec import changed

_MARK, _RELEASE = "serving_plan", 1


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """`texts`: the YAML it was made of. `base`: revision and fingerprint of the engine's target then. `outlook`: for people and CI."""

    target: dict[str, Any]
    replace: bool
    texts: list[dict[str, str]]
    base: dict[str, Any]
    outlook: dict[str, Any]

    def write(self, file: Path) -> None:
        """Ends the command with 1 where the file cannot be written."""
        values = {name: getattr(self, name) for name in ("base", "outlook", "replace", "texts", "target")}
        try:
            file.write_text(json.dumps({_MARK: _RELEASE, "made_at": time.time(), **values}, indent=2))
        except OSError as error:
            fail(f"{file}: {error.strerror}")

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return the plan in a file, None where the file is something else. Ends the command with 1 where it is no plan of this release."""
        try:
            value = json.loads(file.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(value, dict) or _MARK not in value:
            return None
        try:
            if value[_MARK] != _RELEASE:
                raise ValueError(f"of release {value[_MARK]}")
            Target.from_json(value["target"])
            return cls(*(value[name] for name in ("target", "replace", "texts", "base", "outlook")))
        except (KeyError, TypeError, ValueError) as error:
            fail(f"{file} is not a plan of this release ({type(error).__name__}: {error}); make a new one")

    def order(self) -> dict[str, Any]:
        """Return the body of an apply. Ends the command with 1 where a model's file has changed since."""
        for deployment in Target.from_json(self.target).deployments:
            if wrong := changed(deployment):
                fail(f"{deployment.key}: {wrong}; make a new plan")
        return {"target": self.target, "replace": self.replace, "texts": self.texts, "expect": self.base["fingerprint"]}
