"""The environment of an engine's processes. Set before the process that starts Ray begins: Ray reads it while it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from serving.cluster import worker
from serving.cluster.boot import TAG, Boot
from serving.errors import Unavailable

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Have to be there before numpy and torch are imported: a late change leaves threads spinning (18 instead of 5.7 µs a request)."""
LOG_BYTES = 10 << 20

_OF_OTHERS = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN")
"""Would tie our Ray to another one."""


def of(boot: Boot, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which the engine is to run."""
    if boot.ray_address:
        return {**inherited, TAG: boot.engine}
    return {
        **{name: value for name, value in inherited.items() if name not in _OF_OTHERS},
        TAG: boot.engine,
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file(boot)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everything of Ray on the loopback address
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # num_gpus=0 hides the GPUs
        "RAY_ROTATION_MAX_BYTES": str(LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": "2",
        "RAY_enable_metrics_collection": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_event_stats": "0",
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1000000",  # Serve never gives up: replicas hold themselves back (starts.py)
        "RAY_memory_monitor_refresh_ms": "0",  # it kills the youngest worker, a gateway as soon as a model; the kernel looks at sizes
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",  # Serve's 0.1 costs 2 % of a core more while nothing happens
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "0",  # a timer of 0.1 s for each deployment in each process, for metrics that nobody reads
        "RAY_worker_maximum_startup_concurrency": "16",  # forks are cheap, and replicas that wait for torch must not keep others waiting
        worker.SOCKET: str(Path(boot.run_dir) / "nursery.sock"),
        worker.ENTRY: _ray_worker(),
        "SPT_NOENV": "1",  # titles of processes are not written over their environment, by which they are found
        "RAY_worker_niceness": "0",  # Ray's 15 would put every other program on the machine before the models
    }


def _ray_worker() -> str:
    """Return the path of Ray's own worker script, without importing Ray."""
    found = find_spec("ray")
    if found is None or found.origin is None:
        raise Unavailable("Ray is not installed here")
    return str(Path(found.origin).parent / "_private" / "workers" / "default_worker.py")


def token_file(boot: Boot) -> Path:
    """Return the path of the secret that this engine's Ray asks for."""
    return Path(boot.run_dir) / "token"
