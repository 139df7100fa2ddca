"""Face: what every part of the YAML's face has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Face(BaseModel):
    """Strict: no unknown key, no "5" for 5."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
