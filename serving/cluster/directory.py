"""Directory: what discovery has told this process. One per process; the router class, which Serve pickles, reaches it by import."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

Found = Mapping[str, dict[str, Any]]
"""Metadata of running replicas, by replica id."""

_lock = threading.Lock()
_listeners: dict[str, Callable[[Found], None]] = {}
_last: dict[str, Found] = {}


def listen(app: str, listener: Callable[[Found], None]) -> None:
    """Call `listener` with all running replicas of a Serve application at each change, from a thread of Serve's."""
    with _lock:
        _listeners[app] = listener
        last = _last.get(app)
    if last is not None:
        listener(last)


def tell(app: str, found: Found) -> None:
    """Note what runs; called by the router."""
    with _lock:
        _last[app] = found
        listener = _listeners.get(app)
    if listener is not None:
        listener(found)


def running(app: str) -> Found:
    """Return what was last told about an application."""
    with _lock:
        return _last.get(app, {})
