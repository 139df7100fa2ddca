"""What the controller knows, as samples of the metrics page ("Metrics" in serving/README.md)."""

from __future__ import annotations

from typing import Any

from serving.control.status import Status, VersionStatus


def samples(status: Status) -> list[list[Any]]:
    """Return the engine's state at one moment; all of it is gauges, which go when the controller goes."""
    found: list[list[Any]] = [
        ["serving_revision", "gauge", {}, status.revision],
        ["serving_settled", "gauge", {}, int(status.settled)],
        ["serving_gateways_wanted", "gauge", {}, status.gateways_wanted],
    ]
    for version in status.versions:
        labels = {"model": version.model, "version": version.version}
        found += [["serving_replicas", "gauge", {**labels, "state": state}, n] for state, n in _replicas(version).items()]
        found.append(["serving_replicas_wanted", "gauge", labels, version.wanted])
        found.append(["serving_version_ready", "gauge", labels, int(version.state == "ready")])
        found.append(["serving_start_failures", "gauge", labels, version.failures])
    return found


def _replicas(version: VersionStatus) -> dict[str, int]:
    """Return how many replicas are in which state: those that do not run are on their way, or cannot start."""
    missing = max(0, version.wanted - version.running)
    failed = missing if version.state == "failed" else 0
    return {"running": version.running, "starting": missing - failed, "failed": failed}
