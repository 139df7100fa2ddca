from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data_path.models import plan
from tests.data_path.rig import DataPath

from .fake_v2 import FakeV2


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPath]:
    """Our own engine without Ray: a gateway behind the real edge, and a replica with the models of tests/data_path/models.py."""
    with DataPath() as node:
        node.replica(plan(tmp_path_factory.mktemp("models"), node.gate), "r1")
        node.gateway("a")
        yield node


@pytest.fixture
def fake() -> Iterator[FakeV2]:
    """A server that has what our engine does not have yet; see there."""
    with FakeV2() as server:
        yield server
