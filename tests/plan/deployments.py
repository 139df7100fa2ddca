"""Strategies and short forms for the values of plan/."""

from __future__ import annotations

from hypothesis import strategies as st

from serving.hosting import BatchPolicy, VersionPlan
from serving.plan import DeploymentTarget, EngineSettings, Running, Target, World
from serving.routing import PLAIN, Route, RouteTable
from serving.state import GatewayLimits
from serving.tensor import DType, Signature, TensorSpec
from tests.routing.routes import traffics


def deployment(
    key: str = "mlp/1", *, replicas: int = 1, digest: str = "d", artefact: str = "/a/model.pt2", **batching: object
) -> DeploymentTarget:
    model, version = key.split("/")
    policy = BatchPolicy(**batching)  # type: ignore[arg-type]
    return DeploymentTarget(VersionPlan(model, version, "torch", artefact, batching=policy), replicas=replicas, digest=digest)


def routes(*entries: Route, revision: int = 0) -> RouteTable:
    return RouteTable(revision, {r.endpoint: r for r in entries})


def world_of(target: Target, revision: int = 7) -> World:
    """Return a world in which the target has come true."""
    return World(
        target.settings,
        target.settings.gateways,
        {d.key: Running(d, running=d.replicas) for d in target.deployments},
        RouteTable(revision, dict(target.routes.routes)),
    )


_SIGNATURE = Signature((TensorSpec("x", DType.FP32, (-1, 3)),), (TensorSpec("y", DType.BYTES, (), labels=("a", "b")),), 8)

policies = st.builds(
    BatchPolicy,
    max_batch_size=st.sampled_from([0, 8]),
    max_delay_s=st.sampled_from([0.0, 0.002]),
    max_queue_requests=st.sampled_from([1, 2048]),
    execution=st.sampled_from(["inline", "thread"]),
)
settings = st.builds(
    EngineSettings,
    gateways=st.integers(1, 3),
    edge=st.sampled_from(["auto", "always", "off"]),
    limits=st.builds(GatewayLimits, max_body_bytes=st.sampled_from([1 << 20, 1 << 30])),
)


@st.composite
def deployments(draw: st.DrawFn, model: str, version: str) -> DeploymentTarget:
    plan = VersionPlan(
        model,
        version,
        "torch",
        draw(st.sampled_from(["/a.pt2", "/b.pt2"])),
        options=draw(st.sampled_from([{}, {"width": 1}, {"width": 1.0}])),
        signature=draw(st.sampled_from([None, _SIGNATURE])),
        batching=draw(policies),
        warm_up=draw(st.sampled_from([(), (1, 8)])),
    )
    return DeploymentTarget(
        plan,
        draw(st.integers(1, 3)),
        gpus=draw(st.sampled_from([0.0, 0.5, 2])),
        labels=draw(st.sampled_from([{}, {"zone": "a"}])),
        digest=draw(st.sampled_from(["d1", "d2"])),
    )


@st.composite
def targets(draw: st.DrawFn) -> Target:
    chosen: list[DeploymentTarget] = []
    table: dict[str, Route] = {}
    for model in draw(st.lists(st.sampled_from(["mlp", "digits", "echo"]), unique=True)):
        versions = sorted(draw(st.lists(st.sampled_from(["1", "2", "3"]), unique=True, min_size=1)))
        chosen += [draw(deployments(model, v)) for v in versions]
        traffic = draw(st.just(PLAIN) | traffics(versions))
        table[model] = Route(model, draw(st.sampled_from(versions)), tuple(versions), draw(st.booleans()), traffic)
    return Target(draw(settings), tuple(chosen), RouteTable(0, table), {m: f"about {m}" for m in table})
