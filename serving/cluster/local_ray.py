"""LocalRay: a Ray of our own on this machine, as small as Serve allows. Uses Ray's private node class (Ray is pinned).

What `ray.init` would start beyond need is left out: the dashboard, the autoscaler's monitor, the log monitor, and all of the
agent but its skeleton. That is 5 of the 9 seconds that `ray.init` takes on two cores, and all of Ray's HTTP listeners.
Every remaining listener is on 127.0.0.1 and asks for a token that only this engine has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray._private.node as ray_node
import ray._private.utils as ray_utils
import ray._private.worker as ray_worker

CPUS = 1024
"""Logical CPUs of a local Ray: more than any laptop's models declare, so that a declared cpu never keeps a model from starting."""
OBJECT_STORE_BYTES = 80 << 20
NAMESPACE = "serving"


def start(run_dir: Path) -> None:
    """Start Ray and connect to it; the environment is as `environment.of` says.

    To be called in the main thread: Ray's processes are killed when that thread ends.
    """
    with _lean():
        ray.init(
            address="local",
            num_cpus=CPUS,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(run_dir / "ray"),
        )


def connect(address: str) -> None:
    """Connect to a Ray that others run. Raises ConnectionError where there is none."""
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)


def alive() -> bool:
    """Whether the processes of the Ray that `start` has started live."""
    node = ray_worker._global_node
    return node is not None and not node.dead_processes()


def stop() -> None:
    """Disconnect, and end the Ray that `start` has started."""
    ray.shutdown()


class _LeanNode(ray_node.Node):
    """A head node without what only people look at."""

    def start_api_server(self, **_: Any) -> None:
        self._webui_url = ""

    def start_monitor(self) -> None:
        """No autoscaler: this node is the cluster."""

    def start_log_monitor(self) -> None:
        """Nobody follows the workers' output; it is in files."""


@contextmanager
def _lean() -> Iterator[None]:
    """While it lasts, a node that `ray.init` starts is lean, and its agent thinks that the dashboard's libraries are missing."""
    before = ray_node.Node, ray_utils.get_dashboard_dependency_error
    ray_node.Node = _LeanNode  # type: ignore[misc]
    ray_utils.get_dashboard_dependency_error = _no_dashboard
    try:
        yield
    finally:
        ray_node.Node, ray_utils.get_dashboard_dependency_error = before  # type: ignore[misc]


def _no_dashboard() -> ImportError:
    return ImportError("left out on purpose")
