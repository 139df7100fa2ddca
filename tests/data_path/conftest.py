from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .models import plan
from .rig import DataPath, wait_for


@pytest.fixture(scope="module", params=["auto", "grpc"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataPath]:
    """One node with two gateways and one replica that holds all models; gRPC straight to the gateways, and through HAProxy.

    No bug may show in a gateway's loop.
    """
    with DataPath(edge=request.param) as node:
        node.replica(plan(tmp_path_factory.mktemp("models"), node.gate), "r1")
        node.gateway("a")
        node.gateway("b")
        yield node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DataPath]:
    """A node with a replica; gateways come and go."""
    with DataPath() as path:
        path.replica(plan(tmp_path, path.gate), "r1")
        yield path


@pytest.fixture
def gate(path: DataPath) -> Iterator[Path]:
    """The models `gate` and `narrow` wait while this file exists; it exists now."""
    path.gate.touch()
    yield path.gate
    path.gate.unlink(missing_ok=True)
    wait_for(lambda: path.open("gate") + path.open("narrow") == 0)
