"""shortage: whether the nodes that there are could ever hold a replica. Pure; knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.plan import DeploymentTarget


def shortage(deployment: DeploymentTarget, nodes: Sequence[dict[str, Any]]) -> str:
    """Return why no node can hold a replica of it, however empty, or "". `nodes` have "Resources" and "Labels" as Ray tells them."""
    labelled = [n for n in nodes if _has_labels(n, deployment.labels)]
    if not labelled:
        return f"needs a node with {_labels(deployment.labels)}, the cluster has none"
    kind = deployment.accelerator_type
    fitting = [n for n in labelled if not kind or f"accelerator_type:{kind}" in n["Resources"]]
    if not fitting:
        return f"needs an accelerator of type {kind}, the cluster has none"
    for resource, need, unit in (("GPU", deployment.gpus, "GPU"), ("CPU", deployment.cpus, "CPU")):
        most = max(float(n["Resources"].get(resource, 0)) for n in fitting)
        if need > most:
            where = "the cluster has 0" if not most else f"the largest node has {most:g}"
            return f"needs {need:g} {unit}{'s' if need > 1 else ''}, {where}"
    return ""


def _has_labels(node: dict[str, Any], labels: dict[str, str]) -> bool:
    has = node.get("Labels") or {}
    return all(has.get(name) == value for name, value in labels.items())


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())
