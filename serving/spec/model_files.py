"""ModelFiles: models for load requests, as Targets of one model: from repositories, from files that clients send, from what is declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from serving.errors import NotFound
from serving.plan import DeploymentTarget, Target
from serving.routing import RouteTable
from serving.spec import triton_config
from serving.spec.artefact import digest
from serving.spec.load import Source, parse
from serving.spec.repository import Repository, read
from serving.spec.sent import SentFiles


class ModelFiles:
    """`control.model_control.ModelSource`. May be used from several threads."""

    def __init__(self, folders: Iterable[Path], sent: Path) -> None:
        self._repository = Repository(folders)
        self._sent = SentFiles(sent)

    def names(self) -> dict[str, list[str]]:
        return self._repository.names()

    def read(self, name: str, config: str) -> Target:
        return parse([read(name, self._repository.folder(name), config).source])

    def read_files(self, name: str, config: str, files: Mapping[str, bytes]) -> Target:
        return parse([read(name, self._sent.keep(name, files), config).source])

    def declared(self, piece: Target, config: str) -> Target:
        fresh = replace(piece, deployments=tuple(_read_again(d) for d in piece.deployments))
        return _overridden(fresh, config) if config else fresh

    def was_sent(self, artefact: str) -> bool:
        return self._sent.has(artefact)

    def tidy(self, artefacts: set[str]) -> None:
        self._sent.tidy(artefacts)


def _read_again(deployment: DeploymentTarget) -> DeploymentTarget:
    try:
        paths = [Path(p) for p in (deployment.plan.artefact, deployment.plan.weights) if p]
        return replace(deployment, digest="+".join(digest(p) for p in paths))
    except OSError as error:
        raise NotFound(f"{error.filename}: {error.strerror}") from error


def _overridden(piece: Target, config_json: str) -> Target:
    """Return a declared model with what a ModelConfig says in place of what is declared; what it does not speak of stays."""
    config = triton_config.parse_json(config_json)
    triton_config.refuse(config)
    (route,) = piece.routes.routes.values()
    before = {d.plan.version: d for d in piece.deployments}
    versions = [v for v in route.versions if v in before]
    if config.HasField("version_policy"):
        versions, _ = triton_config.served_versions(config, versions)
    model, _ = triton_config.translate(config, lambda label: [])
    model["versions"] = {v: _face(before[v], config) for v in versions}
    stable = route.stable if route.stable in versions else versions[-1]
    model["traffic"] = {"stable": stable}
    text = yaml.safe_dump({"models": {route.endpoint: model}})
    new = parse([Source(f"config of {route.endpoint}", text, Path("/"), generated=True)])
    deployments = tuple(_merged(before[d.plan.version], d, config) for d in new.deployments)
    return replace(
        piece, deployments=deployments, routes=RouteTable(0, {route.endpoint: replace(route, stable=stable, versions=tuple(versions))})
    )


def _face(d: DeploymentTarget, config: Any) -> dict[str, Any]:
    """Return a version as the YAML would have it, for its checks."""
    plan = d.plan
    face: dict[str, Any] = {"artefact": plan.artefact, "runtime": plan.runtime}
    face |= {name: getattr(plan, name) for name in ("entry", "weights", "options") if getattr(plan, name)}
    if plan.signature and not (config.input and config.output):
        told = plan.signature.to_json()
        face["signature"] = {"inputs": told["inputs"], "outputs": told["outputs"]}
    return face


def _merged(before: DeploymentTarget, new: DeploymentTarget, config: Any) -> DeploymentTarget:
    batching = before.plan.batching
    batching = replace(batching, max_batch_size=new.plan.batching.max_batch_size)
    if config.HasField("dynamic_batching"):
        asked = new.plan.batching
        batching = replace(batching, max_delay_s=asked.max_delay_s, max_queue_requests=asked.max_queue_requests, timeout_s=asked.timeout_s)
    elif batching.max_batch_size < 2:
        batching = replace(batching, max_delay_s=0.0)
    signature = new.plan.signature
    if signature is not None:
        signature = replace(signature, max_batch_size=batching.max_batch_size)
    after = replace(before, plan=replace(before.plan, batching=batching, signature=signature, warm_up=new.plan.warm_up), digest=new.digest)
    if config.instance_group:
        after = replace(after, replicas=new.replicas, gpus=new.gpus)
    return after
