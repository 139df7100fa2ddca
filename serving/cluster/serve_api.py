"""Every use that we make of Ray Serve's private and alpha API, in one file; tests/cluster/test_engine.py holds it to its word.

An application here has one deployment and no HTTP route. Its code version decides what a new `deploy` of it does: the same version
restarts nothing (number of replicas and user_config change in place), another one rolls the replicas over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import serve
from ray._common.tls_utils import add_port_to_grpc_server
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.serve import context as serve_context
from ray.serve._private import replica as serve_replica
from ray.serve.api import RunTarget
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serving.errors import Unavailable

FAILED, END = "cannot start: ", " <end of reason>"
"""What a process of ours puts around its reason, so that it can be found in the text that Serve makes of it."""
ONCE = 1
"""Tries to start a part of the engine itself: it is reported at once, and ends the engine."""
ALWAYS = 1_000_000
"""Tries to start a version. Replicas that fail hold themselves back (`starts.py`)."""
HEALTH_TIMEOUT_S = 5.0
"""Three of these and Serve replaces a process that does not say how it is. The watch is faster (`watch.py`)."""
DETAILS_S = 15.0
"""For Serve's controller to say what runs."""
_STARTS_FAIL = "A replica failed to start"
"""How Serve's message begins once a replica has failed and another is tried."""


@dataclass(frozen=True, slots=True)
class Application:
    """One Serve application of one deployment.

    code_version  same = replicas go on
    user_config   reaches `reconfigure` of each replica, in place
    resources     ray_actor_options
    surge         whether a new replica starts before the old one stops; off where both want the same port
    drain_s       time for `__del__` before the process is killed
    attempts      starts that may fail before Serve gives up
    """

    name: str
    deployment: str
    host: type
    arguments: tuple[Any, ...]
    code_version: str
    replicas: int = 1
    user_config: dict[str, Any] | None = None
    resources: dict[str, Any] = field(default_factory=dict)
    router: str = ""
    surge: bool = True
    drain_s: float = 30.0
    one_per_node: bool = False
    attempts: int = ONCE


@dataclass(frozen=True, slots=True)
class ApplicationSeen:
    """What Serve says of an application. `failed`: a start or an update has failed, tried again or not; `reason` says why.

    updating  what was asked for last is not there yet
    """

    running: int
    starting: int
    stopping: int
    failed: bool
    reason: str
    updating: bool = False


def start() -> None:
    """Start Serve's controller, without proxies."""
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})


def deploy(applications: Iterable[Application]) -> None:
    """Submit applications together, so that their processes start side by side; waits for none."""
    targets = [RunTarget(_build(a), name=a.name, route_prefix=None) for a in applications]
    if targets:
        serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _build(a: Application) -> Any:
    options: dict[str, Any] = {
        "name": a.deployment,
        "num_replicas": a.replicas,
        "ray_actor_options": {"num_cpus": 0, **a.resources},
        "health_check_period_s": 1.0,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": a.drain_s,
        "max_ongoing_requests": 100,
        "max_surge_percent": 100 if a.surge else 0,
        "rolling_update_percentage": 1.0 if a.surge else 0.5,
        "max_constructor_retry_count": a.attempts,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }
    if a.user_config is not None:
        options["user_config"] = a.user_config
    if a.router:
        options["request_router_config"] = RequestRouterConfig(request_router_class=a.router)  # type: ignore[arg-type]
    if a.one_per_node:
        options["max_replicas_per_node"] = 1
    deployment = serve.deployment(**options)(a.host)
    return deployment.options(_internal=True, version=a.code_version).bind(*a.arguments)


def ask() -> None:
    """Return when Serve's controller has answered. Raises Unavailable."""
    try:
        ray.get(_client()._controller.check_alive.remote(), timeout=DETAILS_S)
    except (RayError, RayServeException, TimeoutError) as error:
        raise Unavailable(f"Ray Serve does not answer: {error}") from error


def delete(names: Iterable[str]) -> None:
    """Drain and stop applications; waits for none."""
    names = list(names)
    if names:
        _client().delete_apps(names, blocking=False)


def applications() -> dict[str, ApplicationSeen]:
    """Return all applications that Serve has. Raises Unavailable while its controller does not answer."""
    try:
        details = ray.get(_client()._controller.get_serve_instance_details.remote(), timeout=DETAILS_S)
    except (RayError, RayServeException, TimeoutError) as error:
        raise Unavailable(f"Ray Serve does not answer: {error}") from error
    return {name: _seen(app) for name, app in details["applications"].items()}


def _seen(app: dict[str, Any]) -> ApplicationSeen:
    running = starting = stopping = 0
    messages = []
    for deployment in app["deployments"].values():
        messages.append(deployment["message"])
        for replica in deployment["replicas"]:
            state = str(getattr(replica["state"], "value", replica["state"]))
            running += state in ("RUNNING", "UPDATING", "PENDING_MIGRATION")
            starting += state in ("STARTING", "RECOVERING")
            stopping += state == "STOPPING"
    status = str(getattr(app["status"], "value", app["status"]))
    message = next((m for m in messages if m), app["message"])
    failed = status in ("DEPLOY_FAILED", "UNHEALTHY") or message.startswith(_STARTS_FAIL)
    return ApplicationSeen(running, starting, stopping, failed, _reason(message), status == "DEPLOYING")


_OURS = re.compile(re.escape(FAILED) + "(.*?)" + re.escape(END), re.DOTALL)


def _reason(message: str) -> str:
    """Return what a person needs of Serve's message: our own reason where there is one, else its last line."""
    found = _OURS.search(message)
    if found:
        return found.group(1)
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[-1] if lines else ""


Handle = DeploymentHandle[Any]


def handle(application: str, deployment: str) -> Handle:
    """Return a handle of an application that need not be there yet; its router listens to Serve from now on."""
    made: Handle = _client().get_handle(deployment, application, check_exists=False)
    if not made.is_initialized:
        made._init()  # type: ignore[no-untyped-call]
    return made


def forget(made: Handle) -> None:
    """Stop listening; the handle cannot be used any more."""
    _client().handle_cache.pop((made.deployment_name, made.app_name, False), None)
    made.shutdown()  # type: ignore[no-untyped-call]


def broadcast(target: Handle, method: str, argument: Any, timeout_s: float) -> list[Any]:
    """Call a method of every running replica; return their answers, [] where none answers in time."""
    try:
        return list(target.broadcast(method, argument).results(timeout_s=timeout_s))
    except (RayError, RayServeException, TimeoutError):
        return []


def call(target: Handle, method: str, timeout_s: float) -> Any:
    """Return what one replica answers. Raises Unavailable where none does in time."""
    try:
        return getattr(target, method).remote().result(timeout_s=timeout_s)
    except (RayError, RayServeException, TimeoutError) as error:
        raise Unavailable(f"{target.app_name} does not answer: {error}") from error


def shutdown() -> None:
    """Stop all applications and Serve itself."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def cannot_start(reason: str) -> RuntimeError:
    """Return what a process raises to have its reason shown."""
    return RuntimeError(f"{FAILED}{reason}{END}")


def replica_id() -> str:
    """Return the id of the replica that this process is."""
    return str(serve.get_replica_context().replica_id.unique_id)


def stay_on_loopback() -> None:
    """Have the gRPC port that Serve gives to each replica opened on 127.0.0.1; to be called in `__init__`.

    Serve opens it on all interfaces ("[::]:0"), for calls between replicas that we do not make.
    """
    vars(serve_replica)["add_port_to_grpc_server"] = _add_loopback_port


def _add_loopback_port(server: Any, _address: str) -> int:
    return int(add_port_to_grpc_server(server, "127.0.0.1:0"))  # type: ignore[no-untyped-call]


def nodes() -> list[dict[str, Any]]:
    """Return the nodes that live: "NodeID", "Resources", "Labels"."""
    return [n for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]


def free() -> dict[str, dict[str, float]]:
    """Return by node id which resources no process holds now. Raises Unavailable while Ray cannot be asked."""
    try:
        found: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    except RayError as error:
        raise Unavailable(f"Ray does not answer: {error}") from error
    return found


def _client() -> Any:
    return serve_context._get_global_client()
