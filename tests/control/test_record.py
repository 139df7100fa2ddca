"""The record, through the controller: what is changed and what happens becomes events; a model goes back to what it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.control import history
from serving.control.acceptance import Act, with_part
from serving.control.controller import Controller
from serving.control.event import Event
from serving.control.ports import Seen, VersionSeen
from serving.errors import NotFound, Unavailable
from serving.plan import EngineSettings, Target
from tests.control.fake_cluster import FakeClock, FakeCluster, FakeStore, target


class Scene:
    def __init__(self) -> None:
        self.cluster, self.store, self.clock = FakeCluster(), FakeStore(), FakeClock()
        self.controller = Controller(self.cluster, self.store, self.clock)
        self.cluster.gateways = {"a"}

    def apply(self, wanted: Target, kind: str = "apply") -> int:
        return self.controller.accept(wanted, Act("ann", "because", kind))

    def settle(self) -> None:
        """Let everything come up and go that was asked to."""
        for _ in range(6):
            self.controller.tick()
            for key, v in list(self.cluster.versions.items()):
                if v.starting:
                    self.cluster.versions[key] = VersionSeen(running=v.running + v.starting)
                elif v.stopping:
                    self.cluster.go(key)

    def see(self, key: str, **words: int) -> None:
        self.cluster.versions[key] = replace(self.cluster.versions[key], **words)
        self.controller.tick()

    def again(self) -> None:
        """A new controller takes over."""
        self.controller = Controller(self.cluster, self.store, self.clock)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_change_is_an_event_of_its_model_with_who_why_and_what_it_means(scene: Scene) -> None:
    scene.apply(target("mlp/1", "echo/1"))
    scene.settle()
    scene.store.kinds()
    scene.apply(target("mlp/1", "mlp/2", "echo/1", stable="1"))
    (recorded,) = scene.store.recorded[scene.store.said_up_to :]
    event = recorded.event
    assert (event.kind, event.model, event.who, event.why, event.revision) == ("apply", "mlp", "ann", "because", 2)
    assert event.what == "mlp/2 starts on 1 replica; mlp: version 2 can be asked for, no restart"
    assert [sorted(side["versions"]) for side in (event.before, event.after)] == [["1"], ["1", "2"]]


def test_settings_are_an_event_of_their_own(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.store.kinds()
    scene.apply(target("mlp/1", gateways=3))
    assert scene.store.kinds() == ["settings"]
    assert scene.store.recorded[-1].event.what == "gateways: 1 → 3"


def test_the_same_target_twice_is_no_event(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.store.kinds()
    scene.apply(target("mlp/1"))
    assert scene.store.kinds() == []


def test_a_model_comes_up_moves_and_its_old_version_ends(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.settle()
    assert scene.store.kinds() == ["apply mlp", "settings", "traffic mlp/1", "gateways", "version.ready mlp/1", "live mlp/1"]
    scene.apply(target("mlp/2"))
    scene.settle()
    assert scene.store.kinds() == ["apply mlp", "version.ready mlp/2", "traffic mlp/2", "live mlp/2", "version.stopped mlp/1"]
    assert {r.event.revision for r in scene.store.recorded[-4:]} == {2}
    assert scene.store.verify().problem == ""


def test_a_failed_start_is_told_once_and_the_old_version_goes_on(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.settle()
    scene.store.kinds()
    scene.apply(target("mlp/2"))
    scene.controller.tick()
    scene.cluster.fail("mlp/2", "no such file")
    for _ in range(3):
        scene.controller.tick()
    assert scene.store.kinds() == ["apply mlp", "version.failed mlp/2"]
    assert scene.store.recorded[-1].event.what == "mlp/2 has failed: no such file"
    assert scene.controller.status.answering == {"mlp": "1"}
    assert scene.cluster.state is not None
    assert scene.cluster.state.routes.routes["mlp"].stable == "1"


def test_lost_replicas_are_told_and_scaling_is_not(scene: Scene) -> None:
    scene.apply(target("mlp/1", replicas=3))
    scene.settle()
    scene.store.kinds()
    scene.see("mlp/1", running=2, starting=1)
    assert scene.store.kinds() == ["replica.lost mlp/1"]
    assert scene.store.recorded[-1].event.what == "mlp/1 has lost 1 replica, 2 of 3 run"
    scene.see("mlp/1", running=3, starting=0)
    assert scene.store.kinds() == ["replica.back mlp/1"]
    scene.apply(target("mlp/1", replicas=1))
    scene.settle()  # those that are to end still run
    scene.see("mlp/1", running=1, starting=0)
    scene.settle()
    assert scene.store.kinds() == ["apply mlp"]


def test_a_model_without_a_replica_is_down_until_it_is_ready(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.settle()
    scene.store.kinds()
    scene.see("mlp/1", running=0, starting=1)
    scene.see("mlp/1", running=1, starting=0)
    assert scene.store.kinds() == ["version.down mlp/1", "replica.lost mlp/1", "version.ready mlp/1", "replica.back mlp/1"]


def test_gateways_that_go_and_come_are_told(scene: Scene) -> None:
    scene.apply(target("mlp/1", gateways=2))
    scene.settle()
    assert "gateways" not in scene.store.kinds()  # the second has not come yet
    for gateways in ({"a", "b"}, {"a"}, {"a", "c"}):
        scene.cluster.gateways = gateways
        scene.controller.tick()
    assert [r.event.after for r in scene.store.recorded if r.event.kind == "gateways"] == [2, 1, 2]


def test_a_new_controller_tells_nothing_again_and_a_new_engine_says_that_all_is_ready(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.settle()
    scene.store.kinds()
    scene.again()
    scene.settle()
    assert scene.store.kinds() == []
    scene.store.record([Event("engine.started", "")], 1000.0)
    scene.again()
    scene.settle()
    assert scene.store.kinds() == ["engine.started", "version.ready mlp/1", "gateways"]


def test_a_disk_that_is_full_delays_events_and_nothing_else(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.apply(target("mlp/1"))
    scene.settle()
    scene.store.kinds()
    with monkeypatch.context() as m:
        m.setattr(scene.store, "record", _full)
        scene.see("mlp/1", running=0, starting=1)
        assert scene.controller.status.versions[0].state == "starting"
    scene.controller.tick()
    assert scene.store.kinds() == ["version.down mlp/1", "replica.lost mlp/1"]


def _full(*_: object) -> None:
    raise Unavailable("disk full")


def test_the_way_back_is_the_newest_revision_in_which_the_model_was_another(scene: Scene) -> None:
    for keys in (["mlp/1"], ["mlp/1", "echo/1"], ["mlp/2", "echo/1"], ["mlp/2", "echo/2"]):
        scene.apply(target(*keys))
    assert history.way_back(scene.store, "mlp").number == 2
    assert history.way_back(scene.store, "echo").number == 3
    assert history.way_back(scene.store, "mlp", to=1).number == 1


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        ("mlp", 9, "there is no revision 9"),
        ("echo", 1, "revision 1 has no model 'echo'"),
        ("mlp", 0, "no revision is known in which 'mlp' was another"),
        ("other", 0, "there is no model 'other', and no revision in which there was one"),
    ],
)
def test_no_way_back_says_why(scene: Scene, model: str, to: int, message: str) -> None:
    scene.apply(target("mlp/1"))
    with pytest.raises(NotFound, match=message):
        history.way_back(scene.store, model, to)


def test_going_back_moves_traffic_without_a_start_while_the_old_version_is_warm(scene: Scene) -> None:
    scene.apply(target("mlp/1", "mlp/2", "echo/1", stable="1"))
    scene.settle()
    scene.apply(target("mlp/1", "mlp/2", "echo/2", stable="2"))
    scene.settle()
    scene.cluster.take_said()
    back = history.way_back(scene.store, "mlp")
    scene.apply(with_part(scene.controller.target, back.target, "mlp"), "rollback")
    scene.controller.tick()
    assert scene.controller.status.answering == {"mlp": "1", "echo": "2"}
    assert not [line for line in scene.cluster.take_said() if line.startswith(("deploy", "retire"))]
    assert scene.store.recorded[-1].event.kind == "live"


def test_a_deleted_model_comes_back(scene: Scene) -> None:
    scene.apply(target("mlp/1", "echo/1"))
    scene.apply(target("echo/1"), "delete")
    back = history.way_back(scene.store, "mlp")
    assert with_part(scene.controller.target, back.target, "mlp").routes.routes.keys() == {"mlp", "echo"}


def test_history_says_what_each_revision_meant(scene: Scene) -> None:
    scene.apply(target("mlp/1"))
    scene.apply(target("mlp/1", "echo/1"))
    scene.apply(replace(target("mlp/2", "echo/1"), settings=EngineSettings(2)))
    found = history.entries(scene.store)
    assert [(e.revision.number, e.effects[0]) for e in found] == [
        (3, "gateways: 1 → 2"),
        (2, "echo/1 starts on 1 replica"),
        (1, "1 gateway starts"),
    ]
    assert [(e.revision.number, e.effects) for e in history.entries(scene.store, "mlp", 1)] == [
        (3, ("mlp/2 starts on 1 replica", "traffic of mlp: 1 → 2, no restart", "mlp/1 stops, 1 replica drain and end"))
    ]


def test_nothing_is_told_of_an_engine_that_was_never_told_what_to_run(scene: Scene) -> None:
    scene.cluster.observe = lambda: Seen()  # type: ignore[method-assign]
    scene.controller.tick()
    assert scene.store.kinds() == []
