"""The controller against a cluster of paper: what it asks for, in which order, and what it says about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.control.acceptance import Act
from serving.control.controller import ADOPT_AFTER_S, Controller
from serving.control.event import Event, Filter
from serving.control.ports import VersionSeen
from serving.plan import Target
from serving.routing import PLAIN, RouteTable, Shadow, Share, Traffic
from tests.control.fake_cluster import FakeClock, FakeCluster, FakeStore, target


class Scene:
    """A controller and what stands around it."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.store = FakeStore()
        self.clock = FakeClock()
        self.controller = Controller(self.cluster, self.store, self.clock)

    def ticks(self, count: int = 1) -> list[str]:
        """Tick, and return what the cluster was asked to do."""
        for _ in range(count):
            self.controller.tick()
        return self.cluster.take_said()

    def up(self, *keys: str) -> None:
        """Bring an engine to where these versions answer."""
        self.controller.accept(target(*keys), Act("test", "start"))
        self.cluster.gateways = {"a"}
        self.ticks()
        self.cluster.come_up(*keys)
        self.ticks(2)
        assert self.controller.status.settled

    def states(self) -> dict[str, str]:
        return {v.key: v.state for v in self.controller.status.versions}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_new_engine_starts_everything_at_once_and_routes_before_it_is_ready(scene: Scene) -> None:
    scene.controller.accept(target("mlp/1", "echo/1"), Act("test", ""))
    assert scene.ticks() == ["resize 1", "deploy mlp/1 x1", "deploy echo/1 x1"]
    scene.cluster.gateways = {"a"}
    assert scene.ticks() == ["publish mlp→1 of 1, echo→1 of 1"]
    assert scene.states() == {"mlp/1": "starting", "echo/1": "starting"}
    assert not scene.controller.status.settled


def test_a_settled_engine_is_left_alone(scene: Scene) -> None:
    scene.up("mlp/1")
    assert scene.ticks(3) == []
    assert scene.controller.status.ready


def test_traffic_moves_only_when_the_new_version_answers(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.controller.accept(target("mlp/1", "mlp/2"), Act("test", ""))
    assert scene.ticks() == ["deploy mlp/2 x1", "publish mlp→1 of 1 2"]
    assert any("when version 2 is ready" in line for line in scene.controller.status.waiting)
    scene.cluster.come_up("mlp/2")
    assert scene.ticks(2) == ["publish mlp→2 of 1 2"]
    assert scene.controller.status.settled


def test_a_split_waits_for_all_that_it_gives_more_and_for_nobody_else(scene: Scene) -> None:
    scene.up("mlp/1", "mlp/2")
    split = Traffic((Share("1", 500), Share("2", 9000), Share("3", 500)), shadows=(Shadow("4", 100),))
    scene.controller.accept(routed(target("mlp/1", "mlp/2", "mlp/3", "mlp/4"), "2", split), Act("test", ""))
    assert scene.ticks() == ["deploy mlp/3 x1", "deploy mlp/4 x1", "publish mlp→2 of 1 2 3 4"]
    scene.cluster.come_up("mlp/3")
    scene.ticks(2)
    assert scene.cluster.state is not None
    assert scene.cluster.state.routes.routes["mlp"].traffic == PLAIN
    assert any(line.endswith("when version 4 is ready") for line in scene.controller.status.waiting)
    scene.cluster.come_up("mlp/4")
    scene.ticks(2)
    assert scene.cluster.state.routes.routes["mlp"].traffic == split
    assert {v.version: v.traffic for v in scene.controller.status.versions} == {"1": "5 %", "2": "90 %", "3": "5 %", "4": "copies of 1 %"}

    scene.cluster.fail("mlp/3", "it crashed")
    less = Traffic((Share("1", 900), Share("2", 9000), Share("3", 100)))
    scene.controller.accept(routed(scene.controller.target, "2", less), Act("test", ""))
    scene.ticks()
    assert scene.cluster.state.routes.routes["mlp"].traffic == less


def test_a_version_that_waits_for_traffic_may_be_mended(scene: Scene) -> None:
    """Its replacement must not wait for the route that waits for it."""
    scene.up("mlp/1", "mlp/2")
    scene.controller.accept(target("mlp/1", "mlp/2", stable="1"), Act("test", ""))
    scene.ticks(2)
    scene.cluster.fail("mlp/2", "it crashed")
    scene.ticks()
    mended = target("mlp/1", "mlp/2", stable="2")
    one, two = mended.deployments
    scene.controller.accept(replace(mended, deployments=(one, replace(two, digest="mended"))), Act("test", ""))
    assert "deploy mlp/2 x1" in scene.ticks()
    scene.cluster.come_up("mlp/2")
    assert scene.ticks(2) == ["publish mlp→2 of 1 2"]


def routed(wanted: Target, stable: str, traffic: Traffic) -> Target:
    """Return the target with this traffic for mlp."""
    route = replace(wanted.routes.routes["mlp"], stable=stable, traffic=traffic)
    return replace(wanted, routes=RouteTable(0, {**wanted.routes.routes, "mlp": route}))


def test_an_old_version_stops_after_every_gateway_has_the_new_routes(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.controller.accept(target("mlp/2"), Act("test", ""))
    assert scene.ticks() == ["deploy mlp/2 x1", "publish mlp→1 of 1 2"]
    scene.cluster.come_up("mlp/2")
    scene.ticks()
    scene.cluster.gateways = {"a", "b"}
    scene.cluster.deaf = {"b"}
    assert "retire mlp/1" not in scene.ticks(2)
    scene.cluster.deaf = set()
    assert scene.ticks() == ["retire mlp/1"]
    assert not scene.controller.status.settled
    scene.cluster.go("mlp/1")
    scene.ticks()
    assert scene.controller.status.settled


def test_a_version_that_fails_keeps_the_old_one_in_traffic(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.controller.accept(target("mlp/2"), Act("test", ""))
    scene.ticks()
    scene.cluster.fail("mlp/2", "no such file")
    assert scene.ticks(2) == []
    assert scene.states() == {"mlp/2": "failed"}
    assert scene.controller.status.failed[0].reason == "no such file"
    assert scene.cluster.state is not None
    assert scene.cluster.state.routes.routes["mlp"].stable == "1"


def test_one_failed_model_does_not_keep_the_others_from_being_settled(scene: Scene) -> None:
    scene.controller.accept(target("mlp/1", "bad/1"), Act("test", ""))
    scene.cluster.gateways = {"a"}
    scene.ticks()
    scene.cluster.come_up("mlp/1")
    scene.cluster.fail("bad/1", "no such file")
    scene.ticks(2)
    assert scene.states() == {"mlp/1": "ready", "bad/1": "failed"}
    assert scene.controller.status.settled
    assert not scene.controller.status.ready


def test_a_deleted_model_leaves_the_routes_before_its_replicas_stop(scene: Scene) -> None:
    scene.up("mlp/1", "echo/1")
    scene.controller.accept(target("mlp/1"), Act("test", ""))
    assert scene.ticks() == ["publish mlp→1 of 1", "retire echo/1"]


def test_a_failed_version_is_tried_again_when_its_model_is_applied(scene: Scene) -> None:
    scene.controller.accept(target("bad/1"), Act("test", ""))
    scene.cluster.gateways = {"a"}
    scene.ticks()
    scene.cluster.fail("bad/1", "no such file")
    scene.ticks()
    scene.controller.accept(target("bad/1"), Act("test", "again"), ["other"])
    assert scene.ticks() == []
    scene.controller.accept(target("bad/1"), Act("test", "again"), ["bad"])
    assert scene.ticks() == ["retire bad/1"]
    assert scene.states() == {"bad/1": "starting"}
    scene.cluster.go("bad/1")
    assert scene.ticks() == ["deploy bad/1 x1"]
    assert len(scene.store.revisions) == 1


def test_what_cannot_be_placed_is_not_started_and_says_why(scene: Scene) -> None:
    scene.controller.accept(target("big/1"), Act("test", ""))
    scene.cluster.short["big/1"] = "needs 1 GPU, the cluster has 0"
    scene.cluster.gateways = {"a"}
    assert scene.ticks(2) == ["resize 1", "publish big→1 of 1"]
    assert scene.controller.status.failed[0].reason == "needs 1 GPU, the cluster has 0"
    scene.cluster.short.clear()
    assert scene.ticks() == ["deploy big/1 x1"]


def test_a_new_controller_leaves_running_versions_alone(scene: Scene) -> None:
    scene.up("mlp/1")
    state = scene.cluster.state
    scene.controller = Controller(scene.cluster, scene.store, scene.clock)
    assert scene.ticks(2) == ["resize 1", "deploy mlp/1 x1", "publish mlp→1 of 1"]
    assert state is not None
    assert scene.controller.status.published > state.revision


def test_a_new_controller_stops_what_nobody_knows(scene: Scene) -> None:
    scene.cluster.come_up("stray/1")
    scene.controller.accept(target("mlp/1"), Act("test", ""))
    assert "retire stray/1" not in scene.ticks()
    scene.clock.time += ADOPT_AFTER_S + 1
    assert "retire stray/1" in scene.ticks()


def test_a_version_that_the_cluster_has_lost_is_started_again(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.cluster.go("mlp/1")
    assert scene.ticks() == ["deploy mlp/1 x1"]


def test_a_gateway_that_comes_late_gets_the_routes(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.cluster.gateways = {"a", "b"}
    scene.cluster.state = None
    assert scene.ticks() == ["publish mlp→1 of 1"]
    assert {g.gateway for g in scene.controller.status.gateways} == {"a", "b"}


def test_scaling_restarts_nothing(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.controller.accept(target("mlp/1", replicas=3), Act("test", ""))
    assert scene.ticks() == ["deploy mlp/1 x3"]


def test_replicas_that_go_while_one_answers_leave_the_version_ready(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.cluster.versions["mlp/1"] = VersionSeen(running=1, starting=1)
    scene.ticks()
    assert scene.states() == {"mlp/1": "ready"}


def test_the_same_target_twice_is_one_revision(scene: Scene) -> None:
    first = scene.controller.accept(target("mlp/1"), Act("test", ""))
    assert scene.controller.accept(target("mlp/1"), Act("test", "")) == first


def test_a_failed_start_tells_since_when_and_when_the_next_try_is(scene: Scene) -> None:
    scene.controller.accept(target("bad/1"), Act("test", ""))
    scene.cluster.gateways = {"a"}
    scene.ticks()
    scene.cluster.versions["bad/1"] = VersionSeen(starting=1, failed=True, reason="no such file", failures=3, since=990.0, next_try=1004.0)
    scene.ticks()
    (seen,) = scene.controller.status.failed
    assert (seen.since, seen.failures, seen.next_try) == (990.0, 3, 1004.0)
    assert seen.reason.startswith("no such file (since ")
    assert ", next try at " in seen.reason
    scene.clock.time = 1005.0
    scene.ticks()
    assert scene.controller.status.failed[0].reason.endswith(", trying again)")
    assert scene.controller.status.settled


def test_a_version_that_lacks_a_replica_is_ready_and_says_why_it_lacks_one(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.cluster.versions["mlp/1"] = VersionSeen(1, 1, failed=True, reason="no memory", failures=1, since=990.0, next_try=1001.0)
    scene.ticks()
    (seen,) = scene.controller.status.versions
    assert (seen.state, seen.failures) == ("ready", 1)
    assert seen.reason.startswith("no memory (since ")


def test_a_state_tells_since_when_it_holds(scene: Scene) -> None:
    scene.up("mlp/1")
    assert {v.since for v in scene.controller.status.versions} == {1000.0}
    scene.clock.time = 2000.0
    scene.ticks()
    assert {v.since for v in scene.controller.status.versions} == {1000.0}
    scene.cluster.versions["mlp/1"] = VersionSeen(starting=1)
    scene.ticks()
    assert [(v.state, v.since) for v in scene.controller.status.versions] == [("starting", 2000.0)]


def test_wishes_of_clients_are_told_when_every_gateway_has_them(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.ticks()
    wishes = scene.controller.wish(lambda w: replace(w, log={"log_info": False}), lambda _before, after: [Event("x", str(after.log))])
    scene.cluster.gateways = {"a", "b"}
    scene.cluster.deaf = {"b"}
    scene.ticks(2)
    assert scene.controller.wishes_told < wishes.number
    assert scene.cluster.state is not None
    assert scene.cluster.state.wishes == wishes
    scene.cluster.deaf = set()
    scene.ticks()
    assert scene.controller.wishes_told == wishes.number
    assert [e.event.what for e in scene.store.events(Filter(kind="x"))] == ["{'log_info': False}"]


def test_what_was_ordered_in_a_round_is_in_the_world_before_it_is_seen(scene: Scene) -> None:
    scene.up("mlp/1")
    scene.ticks()
    scene.controller.accept(target("mlp/1", "mlp/2"), Act("ann", "more"))
    scene.controller.tick()
    running = scene.controller.world.deployments
    assert {key: (r.running, r.starting) for key, r in running.items()} == {"mlp/1": (1, 0), "mlp/2": (0, 1)}
