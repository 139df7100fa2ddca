"""Openness: whether an engine asks its clients who they are, in a line for the person who starts it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from serving.cluster.boot import Boot
from serving.control.store import SqliteStore
from serving.plan import Target


def who_may_ask(boot: Boot, target: Target) -> str:
    """Return a line about access. A state directory with keys that is served without asking for them may be a mistake (a restored one)."""
    if target.settings.access.enabled if boot.access_forced is None else boot.access_forced:
        return f"access is on; the first admin's key lies in {Path(boot.state_dir) / 'admin.key'}"
    with closing(SqliteStore(boot.database)) as store:
        keys = len(store.all_keys())
    return f"warning: access is off, and {keys} keys were made: nobody is asked for one (--access on asks)" if keys else "access is off"
