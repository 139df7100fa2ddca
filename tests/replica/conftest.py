from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.replica.host import ReplicaHost
from serving.tensor import DType, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (4,)),), 8)

Start = Callable[..., ReplicaHost]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a host with one version per source text: `start("class Model: ...", execution="inline")`."""
    hosts: list[ReplicaHost] = []

    def run(*sources: str, signature: Signature = SIGNATURE, host: dict[str, Any] | None = None, **policy: Any) -> ReplicaHost:
        batching = BatchPolicy(**{"max_batch_size": signature.max_batch_size, **policy})
        versions = []
        for n, source in enumerate(sources, 1):
            path = tmp_path / f"model_{len(hosts)}_{n}.py"
            path.write_text(source)
            versions.append(VersionPlan("m", str(n), "python", str(path), "Model", signature=signature, batching=batching))
        replica = ReplicaHost(HostPlan(tuple(versions)), f"r{len(hosts)}", str(tmp_path), **(host or {}))
        hosts.append(replica)
        replica.start()
        return replica

    yield run
    for host in hosts:
        host.stop()
