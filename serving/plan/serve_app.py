"""How a deployment appears in Ray Serve: the name of its application and the version of its code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from serving.plan.target import DeploymentTarget

_SEPARATOR = "@"
"""Cannot stand in a model name, so a name can be taken apart again; may stand in file names, which Serve makes of it."""


def app_name(model: str, version: str) -> str:
    """Return the name of the version's Ray Serve application ("mlp@2"); process titles and log files show it."""
    return f"{model}{_SEPARATOR}{version}"


def key_of_app(name: str) -> str | None:
    """Return the version key ("mlp/2") of an application's name; None where the application is not a model."""
    model, separator, version = name.partition(_SEPARATOR)
    return f"{model}/{version}" if model and separator and version else None


def code_facts(deployment: DeploymentTarget) -> dict[str, str]:
    """Return, by the word that the YAML has for it, everything whose change needs new replicas, as JSON text.

    Of the batching only what the model and the gateways have been told on start: the largest batch and the way of execution.
    """
    plan = deployment.plan
    facts: dict[str, Any] = {
        "artefact": plan.artefact,
        "contents": deployment.digest,
        "runtime": plan.runtime,
        "entry": plan.entry,
        "weights": plan.weights,
        "options": plan.options,
        "signature": plan.signature.to_json() if plan.signature else None,
        "max_batch_size": plan.batching.max_batch_size,
        "execution": plan.batching.execution,
        "warm_up": list(plan.warm_up),
        "threads": plan.threads,
        "memory_mb": plan.memory_mb or None,
        "sequence": asdict(plan.sequence) if plan.sequence else None,
        "cpus": float(deployment.cpus),
        "gpus": float(deployment.gpus),
        "accelerator_type": deployment.accelerator_type,
        "labels": deployment.labels,
    }
    return {name: json.dumps(value, sort_keys=True, separators=(",", ":")) for name, value in facts.items()}


def code_version(deployment: DeploymentTarget) -> str:
    """Return 16 hex digits that change exactly when the deployment needs new replicas; the same on every machine."""
    facts = code_facts(deployment)
    for later in ("sequence", "memory_mb"):
        if not getattr(deployment.plan, later):
            del facts[later]  # as in releases that did not know it
    return hashlib.sha256("\n".join(facts.values()).encode()).hexdigest()[:16]
