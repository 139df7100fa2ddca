"""local_ray: a Ray of our own on this machine, as small as Serve allows. Uses Ray's private node class (Ray is pinned).

What `ray.init` would start beyond need is left out: the dashboard, the autoscaler's monitor, the log monitor, and all of the
agent but its skeleton. That is 5 of the 9 seconds that `ray.init` takes on two cores, and all of Ray's HTTP listeners.
Every remaining listener is on 127.0.0.1 and asks for a token that only this engine has.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import ray
import ray._private.node as ray_node
import ray._private.services as ray_services
import ray._private.utils as ray_utils
import ray._private.worker as ray_worker
from ray._private.ray_constants import PROCESS_TYPE_RAYLET

from serving.cluster import nursery_process, worker
from serving.cluster.nursery_process import NurseryProcess
from serving.cluster.vigil import Ended
from serving.errors import Unavailable

CPUS = 1024
"""Logical CPUs of a local Ray: more than any laptop's models declare, so that a declared cpu never keeps a model from starting."""
OBJECT_STORE_BYTES = 80 << 20
NAMESPACE = "serving"
NODE_S = 150.0
"""How long the raylet may take to be known to Ray. Ray's own 30 s are too short for a machine that has other work."""
log = logging.getLogger("ray.said")
WORKER = str(Path(worker.__file__))


def start(run_dir: Path, preloads: list[str]) -> None:
    """Start Ray and connect to it; the environment is as `environment.of` says. `preloads`: see nursery.py.

    To be called in the main thread: Ray's processes are killed when that thread ends.
    """
    vars(ray_worker)["print_to_stdstream"] = _note
    with _lean(preloads):
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
    """Connect to a Ray that others run. Raises Unavailable where there is none."""
    vars(ray_worker)["print_to_stdstream"] = _note
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Unavailable(f"no Ray at {address}: {error}") from error


def _note(data: dict[str, Any], ignore_prefix: str = "") -> None:
    """Take what Ray would print on the terminal."""
    log.warning("%s", "\n".join(map(str, data.get("lines", []))))


def check() -> None:
    """Raise Ended where a process of the Ray that `start` has started has gone."""
    node = ray_worker._global_node
    if node is None:
        raise Ended("Ray has ended")
    for name, process in node.dead_processes():
        raise Ended(f"Ray has ended: its {name} {ended_how(process.returncode)}")


def ended_how(code: int) -> str:
    """Return how a process has ended, in words that go behind its name."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed ({signal.Signals(-code).name})"
    except ValueError:
        return f"was killed (signal {-code})"


def alive() -> bool:
    """Whether the processes of the Ray that `start` has started live."""
    node = ray_worker._global_node
    return node is not None and not node.dead_processes()


def stop() -> None:
    """Disconnect, and end the Ray that `start` has started. Harmless where it has ended by itself."""
    for nursery in _LeanNode.nurseries:
        nursery.end()
    if alive():
        ray.shutdown()


def nursery() -> NurseryProcess | None:
    """Return the nursery of the Ray that `start` has started; None where this system can have none."""
    return _LeanNode.nurseries[-1] if _LeanNode.nurseries else None


class _LeanNode(ray_node.Node):
    """A head node without what only people look at, whose workers come from our nursery."""

    preloads: ClassVar[list[str]] = []
    nurseries: ClassVar[list[NurseryProcess]] = []

    def __init__(self, ray_params: Any, **options: Any) -> None:
        if nursery_process.HERE:
            ray_params.update(worker_path=WORKER, setup_worker_path=WORKER)
        super().__init__(ray_params, **options)

    def start_raylet(self, *arguments: Any, **options: Any) -> None:
        super().start_raylet(*arguments, **options)
        if nursery_process.HERE:
            raylet = self.all_processes[PROCESS_TYPE_RAYLET][0].process.pid
            self.nurseries.append(NurseryProcess(self.preloads, raylet, Path(self._logs_dir) / "nursery.log"))

    def start_api_server(self, **_: Any) -> None:
        self._webui_url = ""

    def start_monitor(self) -> None:
        """No autoscaler: this node is the cluster."""

    def start_log_monitor(self) -> None:
        """Nobody follows the workers' output; it is in files."""


@contextmanager
def _lean(preloads: list[str]) -> Iterator[None]:
    """While it lasts, a node that `ray.init` starts is lean, and its agent thinks that the dashboard's libraries are missing."""
    before = ray_node.Node, ray_utils.get_dashboard_dependency_error
    services = vars(ray_services)
    get_node = services["get_node"]
    _LeanNode.preloads = preloads
    ray_node.Node = _LeanNode  # type: ignore[misc, assignment]
    ray_utils.get_dashboard_dependency_error = _no_dashboard
    services["get_node"] = _patient(get_node, time.monotonic() + NODE_S)
    try:
        yield
    finally:
        ray_node.Node, ray_utils.get_dashboard_dependency_error = before  # type: ignore[misc]
        services["get_node"] = get_node


def _patient(get_node: Callable[..., Any], end: float) -> Callable[..., Any]:
    """Return what asks for a node again and again until it is known, or until `end`."""

    def get(gcs_address: str, node_id: str) -> Any:
        while True:
            try:
                return get_node(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    return get


def _no_dashboard() -> ImportError:
    return ImportError("left out on purpose")
