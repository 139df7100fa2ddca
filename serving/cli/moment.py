"""Times as people give them to a command: "2h", "3d", or a date in ISO 8601."""

from __future__ import annotations

import re
import time
from datetime import datetime

import typer

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w|y)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_557_600}


def seconds(text: str) -> float:
    """Return a length of time in seconds: "90s", "2h", "30d". Raises BadParameter."""
    found = _AGO.match(text.strip())
    if not found:
        raise typer.BadParameter(f"'{text}' is not a time such as 90s, 15m, 2h, 30d, 4w or 1y")
    return float(found[1]) * _SECONDS[found[2]]


def moment(text: str) -> float:
    """Return a time in seconds since 1970: so long ago ("2h"), or an ISO date, local where it names no zone. Raises BadParameter."""
    if _AGO.match(text.strip()):
        return time.time() - seconds(text)
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(f"'{text}' is neither so long ago (90s, 15m, 2h, 30d) nor a date (2026-11-22T14:00)") from None


def shown(at: float) -> str:
    """Return a time as people of this machine read it, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
