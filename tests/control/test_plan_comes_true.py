"""What happened is what the plan said: any target, from any other, on a cluster of paper."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.control.acceptance import Act
from serving.control.controller import Controller
from serving.control.ports import VersionSeen
from serving.hosting import BatchPolicy, VersionPlan
from serving.plan import DeploymentTarget, EngineSettings, Node, Outlook, Target, code_version
from serving.routing import Route, RouteTable
from tests.control.fake_cluster import FakeClock, FakeCluster, FakeStore


class PaperCluster(FakeCluster):
    """Starts and stops what it is asked to between two looks, and notes what became of each version: `born`, `ended`, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.machines = [Node("n", {"CPU": 100.0}, {"CPU": 100.0})]
        self.shapes: dict[str, DeploymentTarget] = {}
        self.born: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.resized = False

    def deploy(self, deployments: Iterable[DeploymentTarget]) -> None:
        for d in deployments:
            was = self.shapes.get(d.key)
            same = was is not None and code_version(was) == code_version(d)
            kept = min(was.replicas, d.replicas) if was and same else 0
            self._count(self.born, d.key, d.replicas - kept)
            self._count(self.ended, d.key, (was.replicas if was else 0) - kept)
            self.shapes[d.key] = d
            self.versions[d.key] = VersionSeen(running=kept, starting=d.replicas - kept)

    def retire(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._count(self.ended, key, self.shapes.pop(key).replicas)
            self.versions[key] = VersionSeen(stopping=1)

    def resize(self, settings: EngineSettings) -> None:
        self.resized = True
        self.gateways = {f"g{n}" for n in range(settings.gateways)}

    def turn(self) -> None:
        for key, v in list(self.versions.items()):
            if v.stopping:
                self.go(key)
            else:
                self.versions[key] = VersionSeen(running=v.running + v.starting)

    def _count(self, where: dict[str, int], key: str, count: int) -> None:
        if count:
            where[key] = where.get(key, 0) + count


def versions(model: str) -> st.SearchStrategy[tuple[tuple[DeploymentTarget, ...], Route]]:
    def build(numbers: set[str], stable: int, shapes: list[tuple[int, str, int]]) -> tuple[tuple[DeploymentTarget, ...], Route]:
        ordered = sorted(numbers)
        found = []
        for number, (replicas, contents, queue) in zip(ordered, shapes, strict=False):
            plan = VersionPlan(model, number, "python", "/m.py", "M", batching=BatchPolicy(max_queue_requests=queue))
            found.append(DeploymentTarget(plan, replicas=replicas, digest=contents))
        return tuple(found), Route(model, ordered[stable % len(ordered)], tuple(ordered))

    shape = st.tuples(st.integers(1, 3), st.sampled_from("ab"), st.sampled_from([10, 20]))
    return st.builds(
        build,
        st.sets(st.sampled_from(["1", "2", "3"]), min_size=1),
        st.integers(0, 2),
        st.lists(shape, min_size=3, max_size=3),
    )


@st.composite
def targets(draw: st.DrawFn) -> Target:
    names = draw(st.sets(st.sampled_from(["mlp", "echo"])))
    models = [draw(versions(name)) for name in sorted(names)]
    settings = EngineSettings(draw(st.integers(1, 2)), server_name=draw(st.sampled_from(["x", "y"])))
    return Target(settings, tuple(d for ds, _ in models for d in ds), RouteTable(0, {r.endpoint: r for _, r in models}))


def settle(controller: Controller, cluster: PaperCluster) -> None:
    for _ in range(40):
        cluster.turn()
        controller.tick()
        if controller.status.settled and not any(v.starting or v.stopping for v in cluster.versions.values()):
            return
    raise AssertionError(f"never settled: {controller.status.waiting}")


def reach(before: Target, after: Target) -> tuple[PaperCluster, Outlook, Controller]:
    cluster = PaperCluster()
    controller = Controller(cluster, FakeStore(), FakeClock())
    controller.accept(before, Act("test", ""))
    settle(controller, cluster)
    said = controller.outlook(after)
    cluster.born, cluster.ended, cluster.resized = {}, {}, False
    controller.accept(after, Act("test", ""))
    settle(controller, cluster)
    return cluster, said, controller


@settings(max_examples=60, deadline=None)
@given(targets(), targets())
def test_what_happened_is_what_the_plan_said(before: Target, after: Target) -> None:
    cluster, said, controller = reach(before, after)
    restarted = set(said.restarts)
    ran = {d.key: d.replicas for d in before.deployments}
    runs = {d.key: d.replicas for d in after.deployments}
    born = {key: runs[key] for key in restarted} | {k: a - b for k, (b, a) in said.replicas.items() if a > b and k not in restarted}
    ended = {key: ran[key] for key in restarted} | {k: b - a for k, (b, a) in said.replicas.items() if b > a and k not in restarted}
    assert cluster.born == born
    assert cluster.ended == ended
    assert {key: v.running for key, v in cluster.versions.items()} == runs
    assert sum(r.takes for r in said.resources) == sum(born.values())  # each replica takes one CPU
    assert sum(r.gives_back for r in said.resources) == sum(ended.values())
    assert cluster.resized == any(c["change"] in ("gateways", "settings") for c in said.to_json()["changes"])
    moved = {t.endpoint: t.after for t in said.traffic}
    answered = {r.endpoint: r.stable for r in before.routes.routes.values()}
    for endpoint, stable in controller.status.answering.items():
        assert moved.get(endpoint, f"100 % to {answered.get(endpoint)}") == f"100 % to {stable}"
    assert {e for e, words in moved.items() if not words} == answered.keys() - controller.status.answering.keys()
    assert said.unfit == ()


@settings(max_examples=60, deadline=None)
@given(targets(), targets())
def test_after_it_nothing_is_left_to_do_and_the_way_back_is_planned_the_same(before: Target, after: Target) -> None:
    _, said, controller = reach(before, after)
    assert not controller.outlook(after).changes
    back = controller.outlook(before)
    assert {key: (b, a) for key, (a, b) in back.replicas.items()} == said.replicas
    assert set(back.restarts) == set(said.restarts)


@settings(max_examples=60, deadline=None)
@given(targets(), targets(), st.integers(0, 3))
def test_a_version_without_room_changes_nothing_for_what_serves(before: Target, after: Target, short: int) -> None:
    """New versions find no room: what the plan says is unfit is what fails, and endpoints that would have moved to it stay."""
    cluster = PaperCluster()
    controller = Controller(cluster, FakeStore(), FakeClock())
    controller.accept(before, Act("test", ""))
    settle(controller, cluster)
    new = [d.key for d in after.deployments if d.key not in {b.key for b in before.deployments}][short:]
    cluster.short = dict.fromkeys(new, "needs 8 GPUs, the cluster has 0")
    said = controller.outlook(after)
    assert {u.key for u in said.unfit} == set(new)
    controller.accept(replace(after), Act("test", ""))
    for _ in range(12):
        cluster.turn()
        controller.tick()
    assert {v.key for v in controller.status.failed} == set(new)
    assert cluster.state is not None
    for endpoint, route in before.routes.routes.items():
        now = after.routes.routes.get(endpoint)
        if now is not None and f"{endpoint}/{now.stable}" in new:
            assert cluster.state.routes.routes[endpoint].stable == route.stable
            assert cluster.versions[f"{endpoint}/{route.stable}"].running > 0
