"""GET /docs: one page that shows /openapi.json to people. It asks no other host for anything."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

PAGE: Final = files("serving.gateway").joinpath("docs.html").read_bytes()
