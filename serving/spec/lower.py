"""Lowers the face of the YAML to the values that the engine works with. Everything has been checked before."""

from __future__ import annotations

import json
from pathlib import Path

from serving.access.identity import Quota
from serving.access.settings import AccessSettings, JwtSettings, TlsSettings
from serving.hosting import BatchPolicy, SequencePolicy, VersionPlan
from serving.names import newest
from serving.plan import DeploymentTarget, EngineSettings, Webhook
from serving.routing import PLAIN, Route, Rule, Shadow, Share, Sticky, Traffic, Where
from serving.spec.artefact import DEFAULT_ENTRY, digest, located, runtimes_of
from serving.spec.face import (
    KIB,
    MIB,
    BatchingFace,
    EngineFace,
    InputFace,
    LimitsFace,
    ModelFace,
    OutputFace,
    RuleFace,
    SignatureFace,
    TrafficFace,
    WebhookFace,
)
from serving.spec.inherit import Inherited
from serving.spec.security_face import AccessFace, QuotaFace
from serving.spec.traffic import points
from serving.spec.version_policy import served
from serving.state import GatewayLimits
from serving.tensor import DType, Signature, TensorSpec


def settings(engine: EngineFace) -> EngineSettings:
    tls = TlsSettings(**engine.tls.model_dump())
    return EngineSettings(
        engine.gateways,
        engine.edge,
        engine.server_name,
        _limits(engine.limits),
        _access(engine.access),
        tls,
        client_shared_memory=engine.client_shared_memory,
        forward_headers=engine.forward_headers,
        base_path=engine.base_path,
        webhooks=tuple(map(_webhook, engine.webhooks)),
    )


def _access(face: AccessFace) -> AccessSettings:
    jwt = face.jwt
    if jwt is None:
        return AccessSettings(face.enabled, None, _quota(face.quota), tuple(face.approval))
    audiences = (jwt.audience,) if isinstance(jwt.audience, str) else tuple(jwt.audience)
    return AccessSettings(
        face.enabled,
        JwtSettings(
            jwt.jwks, jwt.issuer, audiences, tuple(jwt.algorithms), jwt.role_claim, dict(jwt.roles), jwt.name_claim, jwt.clock_skew_s,
            {name: _quota(quota) for name, quota in jwt.quotas.items()},
        ),
        _quota(face.quota),
        tuple(face.approval),
    )  # fmt: skip


def _quota(face: QuotaFace) -> Quota:
    return Quota(face.requests_per_s, face.burst, face.inflight_requests)


def route(name: str, model: ModelFace) -> Route:
    versions = tuple(served(model))
    stable = model.traffic.stable if model.traffic else newest(list(versions))
    return Route(name, stable, versions, model.at_most_once, _traffic(model.traffic) if model.traffic else PLAIN)


def _traffic(face: TrafficFace) -> Traffic:
    sticky = face.sticky
    return Traffic(
        tuple(Share(version, points(face.split[version])) for version in sorted(face.split, key=int)),
        Sticky(*_asked(sticky.header, sticky.parameter)) if sticky else None,
        tuple(_rule(rule) for rule in face.rules),
        tuple(Shadow(s.version, points(s.percent), s.max_inflight_requests, s.max_inflight_mb * MIB) for s in face.shadow),
    )


def _rule(face: RuleFace) -> Rule:
    by, name = _asked(face.header, face.parameter)
    if face.matches is not None:
        return Rule(face.version, by, name, "matches", face.matches)
    return Rule(face.version, by, name, "equals", face.equals or "")


def _asked(header: str | None, parameter: str | None) -> tuple[Where, str]:
    """Return what of a request is looked at. Headers are known by their names in lower case."""
    if header is not None:
        return "header", header.lower()
    return ("parameter", parameter) if parameter is not None else ("address", "")


def deployment(v: Inherited, folder: Path) -> DeploymentTarget:
    """Return one version as it is to run. Raises OSError where a file of it cannot be read."""
    version, resources = v.version, v.resources
    artefact = located(folder, version.artefact)
    weights = located(folder, version.weights) if version.weights else None
    plan = VersionPlan(
        model=v.model_name,
        version=v.version_name,
        runtime=version.runtime or runtimes_of(artefact)[0],
        artefact=str(artefact),
        entry=version.entry or (DEFAULT_ENTRY if artefact.suffix == ".py" else ""),
        weights=str(weights or ""),
        options=json.loads(json.dumps(version.options)),
        signature=_signature(v.signature, v.batching.max_batch_size) if v.signature else None,
        batching=_policy(v.batching, v),
        threads=resources.threads,
        memory_mb=resources.memory_mb,
        warm_up=tuple(v.warm_up.batch_sizes),
        decoupled=v.decoupled,
        sequence=SequencePolicy(v.sequence.max_idle_s, v.sequence.max_sequences) if v.sequence else None,
    )
    return DeploymentTarget(
        plan,
        replicas=v.replicas,
        cpus=resources.cpus,
        gpus=resources.gpus,
        accelerator_type=resources.accelerator_type,
        labels=dict(resources.labels),
        digest="+".join(digest(path) for path in (artefact, weights) if path),
    )


def descriptions(name: str, model: ModelFace) -> dict[str, str]:
    """Return what the file says in words, by model name and by version key."""
    words = {name: model.description} | {f"{name}/{number}": v.description for number, v in model.versions.items()}
    return {key: text for key, text in words.items() if text}


def _webhook(face: WebhookFace) -> Webhook:
    return Webhook(face.url, face.secret_env, face.secret_file, tuple(face.kinds), face.ca_file)


def _limits(face: LimitsFace) -> GatewayLimits:
    """Return the limits; those left out make room for what max_body_mb says."""
    return GatewayLimits(
        max_header_bytes=face.max_header_kb * KIB,
        max_body_bytes=face.max_body_mb * MIB,
        max_json_bytes=min(face.max_json_mb, face.max_body_mb) * MIB,
        header_timeout_s=face.header_timeout_s,
        body_timeout_s=face.body_timeout_s,
        idle_timeout_s=face.idle_timeout_s,
        max_connections=face.max_connections,
        max_inflight_requests=face.max_inflight_requests,
        max_inflight_bytes=max(face.max_inflight_mb, face.max_body_mb) * MIB,
        request_timeout_s=face.request_timeout_s,
        client_header=face.client_header.lower(),
        client_requests_per_s=face.client_requests_per_s,
        client_burst=face.client_burst,
        client_inflight_requests=face.client_inflight_requests,
        max_clients=face.max_clients,
    )


def _policy(face: BatchingFace, v: Inherited) -> BatchPolicy:
    return BatchPolicy(
        max_batch_size=face.max_batch_size,
        max_delay_s=face.max_delay_ms / 1000,
        max_queue_requests=face.max_queue_requests,
        max_queue_bytes=face.max_queue_mb * MIB,
        timeout_s=face.timeout_ms / 1000,
        execution=v.execution,
        isolate=not v.at_most_once,
        max_streams=face.max_streams,
        predict_timeout_s=v.predict_timeout_s,
    )


def _signature(face: SignatureFace, max_batch_size: int) -> Signature:
    return Signature(tuple(map(_input, face.inputs)), tuple(map(_output, face.outputs)), max_batch_size)


def _input(face: InputFace) -> TensorSpec:
    return TensorSpec(face.name, DType.of(face.dtype), tuple(face.shape), optional=face.optional, layout=face.layout)


def _output(face: OutputFace) -> TensorSpec:
    return TensorSpec(face.name, DType.of(face.dtype), tuple(face.shape), labels=tuple(face.labels))
