"""RayCluster: control.ports.Cluster with Ray Serve. Each version, the gateways, the edge and the controller are one application each."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serving.cluster import directory, serve_api, trouble
from serving.cluster.boot import Boot
from serving.cluster.edge import Edge
from serving.cluster.environment import THREAD_VARIABLES
from serving.cluster.gateway import DRAIN_S as GATEWAY_DRAIN_S
from serving.cluster.gateway import MODEL, Gateway
from serving.cluster.placement import shortage
from serving.cluster.preload import preload
from serving.cluster.replica import DRAIN_S, Replica
from serving.cluster.serve_api import Application, ApplicationSeen
from serving.cluster.starts import Starts
from serving.cluster.worker import PRELOAD
from serving.control.ports import Acknowledged, Seen, VersionSeen
from serving.hosting import HostPlan
from serving.plan import DeploymentTarget, EngineSettings, Node, app_name, code_version, key_of_app
from serving.state import GatewayState

GATEWAYS, EDGE, CONTROLLER = "gateways", "edge", "controller"
PUBLISH_S = 5.0
NODES_S = 5.0


class RayCluster:
    """Not thread-safe."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self._run_dir = Path(boot.run_dir)
        self._nodes: list[dict[str, Any]] = []
        self._nodes_at = 0.0
        self._gateways: Any = None

    # Cluster

    def observe(self) -> Seen:
        versions: dict[str, VersionSeen] = {}
        edge = "is starting"
        for name, app in serve_api.applications().items():
            if key := key_of_app(name):
                versions[key] = self._version(key, app)
            elif name == EDGE:
                edge = "" if app.running else app.reason or edge
        return Seen(versions, frozenset(directory.running(GATEWAYS)), edge)

    def _version(self, key: str, app: ApplicationSeen) -> VersionSeen:
        standing = Starts(self._run_dir, key).standing()
        failed = app.failed or standing.failures > 0
        reason = standing.reason or app.reason
        return VersionSeen(
            app.running,
            app.starting,
            app.stopping,
            failed,
            reason,
            standing.failures,
            standing.since,
            standing.next_try,
            app.updating,
            trouble.told(self._run_dir, key),
        )

    def deploy(self, deployments: Iterable[DeploymentTarget]) -> None:
        serve_api.deploy(self.model(d) for d in deployments)

    def retire(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for key in keys:
            Starts(self._run_dir, key).forget()
        serve_api.delete(app_name(*key.split("/")) for key in keys)

    def resize(self, settings: EngineSettings) -> None:
        serve_api.deploy(self.front(settings))

    def publish(self, state: GatewayState) -> list[Acknowledged]:
        self.follow_gateways()
        answers = serve_api.broadcast(self._gateways, "apply", state.to_json(), PUBLISH_S)
        return [Acknowledged(a["gateway"], a["revision"], frozenset(a["served"])) for a in answers]

    def nodes(self) -> list[Node]:
        free = serve_api.free()
        return [Node(n["NodeID"], n["Resources"], free.get(n["NodeID"], {}), n.get("Labels") or {}) for n in serve_api.nodes()]

    def shortage(self, deployment: DeploymentTarget) -> str:
        now = time.monotonic()
        if not self._nodes or now - self._nodes_at > NODES_S:
            self._nodes, self._nodes_at = serve_api.nodes(), now
        return shortage(deployment, self._nodes)

    # Applications

    def follow_gateways(self) -> None:
        """Listen to which gateways run, from now on."""
        if self._gateways is None:
            self._gateways = serve_api.handle(GATEWAYS, "gateway")

    def model(self, d: DeploymentTarget) -> Application:
        """Return the application of one version."""
        resources: dict[str, Any] = {"num_cpus": d.cpus, "num_gpus": d.gpus}
        if d.accelerator_type:
            resources["accelerator_type"] = d.accelerator_type
        if d.labels:
            resources["label_selector"] = dict(d.labels)
        variables = self._variables(d.plan.threads, d.gpus)
        if not self._boot.ray_address and (modules := preload(d)):
            variables[PRELOAD] = modules
        if variables:
            resources["runtime_env"] = {"env_vars": variables}
        plan = HostPlan((d.plan,)).to_json()
        code = code_version(d)
        return Application(
            name=app_name(d.plan.model, d.plan.version),
            deployment=MODEL,
            host=Replica,
            arguments=(self._boot.to_json(), plan, None, "cuda" if d.gpus else "cpu", code),
            code_version=code,
            attempts=serve_api.ALWAYS,
            replicas=d.replicas,
            user_config=plan,
            resources=resources,
            router="serving.cluster.discovery.DiscoveryRouter",
            drain_s=DRAIN_S,
        )

    def front(self, settings: EngineSettings) -> list[Application]:
        """Return the applications of edge and gateways."""
        boot = self._boot.to_json()
        slots = max(12, settings.gateways)
        resources = self.plain_resources()
        edge = Application(
            name=EDGE,
            deployment="edge",
            host=Edge,
            arguments=(boot, settings.edge, slots),
            code_version=f"{settings.edge}-{slots}",
            resources=resources,
            surge=False,
            one_per_node=True,
        )
        gateways = Application(
            name=GATEWAYS,
            deployment="gateway",
            host=Gateway,
            arguments=(boot,),
            code_version="1",
            replicas=settings.gateways,
            resources=resources,
            router="serving.cluster.discovery.CallableRouter",
            drain_s=GATEWAY_DRAIN_S,
        )
        return [edge, gateways]

    def plain_resources(self) -> dict[str, Any]:
        """Return the Ray options of a process without a model."""
        variables = self._variables(1, 0)
        return {"runtime_env": {"env_vars": variables}} if variables else {}

    def _variables(self, threads: int, gpus: float) -> dict[str, str]:
        """Return what a process needs in its environment beyond what a Ray of our own gives to all (`environment.of`).

        A runtime_env costs a process that no other can use, so none is asked for where none is needed.
        """
        if not self._boot.ray_address and threads == 1:
            return {}
        variables = dict.fromkeys(THREAD_VARIABLES, str(threads))
        return variables if gpus else variables | {"CUDA_VISIBLE_DEVICES": ""}
