"""What a plan says of traffic, replicas and room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.hosting import VersionPlan
from serving.plan import DeploymentTarget, EngineSettings, Node, Target, World, fingerprint, outlook
from serving.plan.room import Room
from serving.routing import Route, RouteTable


def version(key: str, **words: object) -> DeploymentTarget:
    model, number = key.split("/")
    return replace(DeploymentTarget(VersionPlan(model, number, "python", "/m.py", "M")), **words)  # type: ignore[arg-type]


def target(*deployments: DeploymentTarget, **stable: str) -> Target:
    versions: dict[str, list[str]] = {}
    for d in deployments:
        versions.setdefault(d.plan.model, []).append(d.plan.version)
    routes = {m: Route(m, stable.get(m, v[-1]), tuple(v)) for m, v in versions.items()}
    return Target(EngineSettings(1), deployments, RouteTable(0, routes))


def node(cpus: float, free: float, name: str = "n", labels: dict[str, str] | None = None, **more: float) -> Node:
    return Node(name, {"CPU": cpus, **more}, {"CPU": free, **more}, labels or {})


def test_nothing_to_do_says_nothing() -> None:
    same = target(version("mlp/1"))
    found = outlook(same, World.of(same), [node(4, 0)])
    assert found.to_json() == {"changes": [], "replicas": {}, "restarts": [], "traffic": [], "resources": [], "unfit": []}


def test_a_new_version_beside_the_old_one_tells_all_its_effects() -> None:
    before, after = target(version("mlp/1")), target(version("mlp/2", replicas=2, cpus=1.5))
    found = outlook(after, World.of(before), [node(4, 3)]).to_json()
    assert found["replicas"] == {"mlp/1": {"before": 1, "after": 0}, "mlp/2": {"before": 0, "after": 2}}
    assert found["traffic"] == [{"endpoint": "mlp", "before": "100 % to 1", "after": "100 % to 2"}]
    assert found["resources"] == [{"name": "CPU", "takes": 3.0, "gives_back": 1.0, "free": 3.0, "total": 4.0}]
    assert (found["unfit"], found["restarts"]) == ([], [])


def test_what_restarts_is_named_and_needs_room_beside_what_runs() -> None:
    before, after = target(version("mlp/1")), target(version("mlp/1", digest="new"))
    found = outlook(after, World.of(before), [node(1, 0)])
    assert found.restarts == ("mlp/1",)
    (unfit,) = found.unfit
    assert (unfit.key, unfit.ever) == ("mlp/1", False)
    assert unfit.reason.startswith("1 of 1 replicas find no node with 1 CPU free beside what runs")


def test_what_no_node_can_hold_is_told_as_the_cluster_tells_it() -> None:
    found = outlook(target(version("big/1", gpus=8.0)), World(), [node(4, 4)], lambda d: "needs 8 GPUs, the cluster has 0")
    assert [(u.key, u.reason, u.ever) for u in found.unfit] == [("big/1", "needs 8 GPUs, the cluster has 0", True)]


def test_growing_takes_only_what_is_more_and_shrinking_takes_nothing() -> None:
    before = target(version("a/1", replicas=3), version("b/1", replicas=3))
    after = target(version("a/1", replicas=4), version("b/1", replicas=1))
    (cpus,) = outlook(after, World.of(before), [node(8, 1)]).resources
    assert (cpus.takes, cpus.gives_back) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("nodes", "replicas", "placed"),
    [
        ([node(4, 4)], 4, 4),
        ([node(4, 1.5), node(4, 1.5)], 4, 2),  # 3 CPUs are free, and no third replica finds a whole one
        ([node(4, 4, GPU=1)], 2, 2),
        ([], 1, 0),
    ],
)
def test_replicas_are_placed_node_by_node(nodes: list[Node], replicas: int, placed: int) -> None:
    assert Room(nodes).place(version("mlp/1"), replicas) == placed


def test_labels_and_the_kind_of_accelerator_decide_where() -> None:
    nodes = [node(8, 8, labels={"zone": "a"}), node(8, 8, labels={"zone": "b"}, GPU=2.0, **{"accelerator_type:A100": 1.0})]
    assert Room(nodes).place(version("mlp/1", labels={"zone": "c"}), 1) == 0
    assert Room(nodes).place(version("mlp/1", labels={"zone": "b"}, gpus=0.5), 9) == 4
    assert Room(nodes).place(version("mlp/1", gpus=1.0, accelerator_type="H100"), 1) == 0
    assert Room(nodes).place(version("mlp/1", gpus=1.0, accelerator_type="A100"), 9) == 2


def test_a_fingerprint_is_of_what_runs_and_not_of_how_it_was_said() -> None:
    one = target(version("mlp/1"))
    assert fingerprint(one) == fingerprint(Target.from_json(one.to_json()))
    assert fingerprint(one) == fingerprint(replace(one, given=frozenset({"gateways"})))
    assert fingerprint(one) != fingerprint(target(version("mlp/1", replicas=2)))
