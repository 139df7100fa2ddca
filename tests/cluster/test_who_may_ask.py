"""What `up` says about access, above all where keys exist and nobody is asked for one: a restored engine, a forgotten option."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from serving.cluster.boot import Boot
from serving.cluster.openness import who_may_ask
from serving.control.keyring import Keyring
from serving.control.store import SqliteStore
from serving.plan import Target


def test_keys_that_nobody_asks_for_are_told(tmp_path: Path) -> None:
    boot = Boot("127.0.0.1", 1, 2, 3, 4, str(tmp_path), str(tmp_path / "run"), "", "tag", 0.0)
    target = Target()
    assert who_may_ask(boot, target) == "access is off"
    with closing(SqliteStore(boot.database)) as store:
        Keyring(store, tmp_path, time.time).create("ci", ["predictor"])
    assert who_may_ask(boot, target).startswith("warning: access is off, and 1 keys were made")
    assert "admin.key" in who_may_ask(replace(boot, access="on"), target)
    settings = replace(target.settings, access=replace(target.settings.access, enabled=True))
    assert "admin.key" in who_may_ask(boot, replace(target, settings=settings))
    assert who_may_ask(replace(boot, access="off"), replace(target, settings=settings)).startswith("warning: access is off")
