"""DiscoveryRouter: Serve pushes the set of running replicas to it at every change; it passes on what the replicas say of themselves.

Serve pickles this class by value and runs the copy wherever there is a handle: keep it free of module state (`tell` is reached by
its import path). No request is ever routed.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import RequestRouter

from serving.cluster.directory import tell


class DiscoveryRouter(RequestRouter):
    """For applications that are called by nobody: models."""

    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        return [candidate_replicas]

    def update_replicas(self, replicas: Any) -> None:
        self._replicas = {r.replica_id: r for r in replicas}
        tell(self._deployment_id.app_name, {r.replica_id.unique_id: dict(r.replica_metadata) for r in replicas})


class CallableRouter(RequestRouter):
    """For applications that the controller calls: gateways."""

    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        return [candidate_replicas]

    def update_replicas(self, replicas: Any) -> None:
        super().update_replicas(replicas)
        tell(self._deployment_id.app_name, {r.replica_id.unique_id: dict(r.replica_metadata) for r in replicas})
