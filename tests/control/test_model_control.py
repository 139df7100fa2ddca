"""Load and unload through the controller, on a cluster of paper that starts at once what is not broken."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from serving.control.acceptance import Act, part
from serving.control.controller import Controller
from serving.control.model_control import NO_NAME, OFF, TRAVERSAL, ModelControl
from serving.control.ports import Seen, VersionSeen
from serving.control.runner import Runner
from serving.control.shelving import declared, loaded, restored, unloaded
from serving.errors import DeadlineExceeded, Internal, InvalidArgument, Unavailable
from serving.plan import DeploymentTarget, Target
from tests.control.fake_cluster import FakeClock, FakeCluster, FakeStore, target


class QuickCluster(FakeCluster):
    """What is deployed runs at the next look, but for `broken`; what is retired has gone by then. Gateways in `deaf` do not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()
        self.gateways = {"a", "b"}

    def observe(self) -> Seen:
        seen = super().observe()
        for key, v in list(self.versions.items()):
            if v.stopping:
                del self.versions[key]
            elif v.starting:
                self.versions[key] = (
                    VersionSeen(failed=True, reason="no weights", failures=1) if key in self.broken else VersionSeen(running=1)
                )
        return seen


class PaperSource:
    """A repository with the models `repo` (versions 1 and 2); remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.tidied: set[str] = set()

    def names(self) -> dict[str, list[str]]:
        return {"repo": ["1", "2"]}

    def read(self, name: str, config: str) -> Target:
        self.asked.append(("read", name, config))
        if config == "bad":
            raise InvalidArgument("the config is bad")
        return target("repo/1", "repo/2")

    def read_files(self, name: str, config: str, files: Mapping[str, bytes]) -> Target:
        self.asked.append(("files", name, config, dict(files)))
        return self._as(target(f"{name}/1"), f"sent/{name}")

    def declared(self, piece: Target, config: str) -> Target:
        self.asked.append(("declared", sorted(piece.routes.routes), config))
        return self._as(piece, config) if config else piece

    def was_sent(self, artefact: str) -> bool:
        return artefact.startswith("sent/")

    def tidy(self, artefacts: set[str]) -> None:
        self.tidied = artefacts

    @staticmethod
    def _as(piece: Target, artefact: str) -> Target:
        def other(d: DeploymentTarget) -> DeploymentTarget:
            return replace(d, plan=replace(d.plan, artefact=artefact))

        return replace(piece, deployments=tuple(map(other, piece.deployments)))


class Scene:
    def __init__(self) -> None:
        self.cluster = QuickCluster()
        self.source = PaperSource()
        self.store = FakeStore()
        self.runner = Runner(Controller(self.cluster, self.store, FakeClock()))
        self.control = ModelControl(self.runner, self.source, allowed=True, done_s=20.0)
        revision = self.runner.change(lambda _: target("mlp/1", "mlp/2", "echo/1"), Act("test", "start"))
        self.runner.start()
        assert self.runner.wait(revision, 10.0).settled

    def states(self, *names: str) -> dict[str, str]:
        return {f"{m['name']}/{m['version']}": m["state"] for m in self.control.index() if m["name"] in names}

    def routed(self) -> set[str]:
        assert self.cluster.state is not None
        return set(self.cluster.state.routes.routes)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.runner.stop()


def test_unload_and_load_of_what_is_declared(scene: Scene) -> None:
    before = scene.runner.target
    scene.control.unload("mlp")
    assert scene.routed() == {"echo"}
    assert scene.states("mlp") in ({"mlp/1": "UNAVAILABLE", "mlp/2": "UNAVAILABLE"}, {"mlp/1": "UNLOADING", "mlp/2": "UNLOADING"})
    assert scene.control.unload("mlp") == {}
    assert scene.control.load("mlp") == {"versions": ["1", "2"]}
    assert scene.routed() == {"echo", "mlp"}
    assert scene.states("mlp") == {"mlp/1": "READY", "mlp/2": "READY"}
    assert part(scene.runner.target, "mlp") == part(before, "mlp")
    assert scene.runner.target.shelf == before.shelf


def test_a_model_of_a_repository_comes_and_goes(scene: Scene) -> None:
    assert scene.states("repo") == {"repo/1": "UNAVAILABLE", "repo/2": "UNAVAILABLE"}
    scene.control.load("repo")
    assert scene.states("repo") == {"repo/1": "READY", "repo/2": "READY"}
    scene.control.unload("repo")
    assert scene.routed() == {"echo", "mlp"}
    assert not scene.runner.target.shelf.deployments


def test_the_record_says_who_has_asked_at_a_gateway(scene: Scene) -> None:
    desk = scene.control.handlers
    desk["unload"]({"model": "mlp", "who": "ann"})
    desk["load"]({"model": "mlp", "config": "", "files": {}, "who": "bob"})
    desk["unload"]({"model": "mlp"})
    assert [(r.author, r.reason) for r in scene.store.history()[:3]] == [
        ("client", "unload mlp"),
        ("bob", "load mlp"),
        ("ann", "unload mlp"),
    ]


def test_a_config_is_forgotten_by_the_next_load_without_one(scene: Scene) -> None:
    scene.control.load("echo", "other")
    assert [d.plan.artefact for d in part(scene.runner.target, "echo").deployments] == ["other"]
    scene.control.load("echo")
    assert [d.plan.artefact for d in part(scene.runner.target, "echo").deployments] != ["other"]
    assert not scene.runner.target.shelf.deployments


def test_what_a_client_sent_is_gone_after_unload(scene: Scene) -> None:
    scene.control.load("new", "{}", {"1/model.py": base64.b64encode(b"x").decode()})
    assert ("files", "new", "{}", {"1/model.py": b"x"}) in scene.source.asked
    assert scene.states("new") == {"new/1": "READY"}
    assert "sent/new" in scene.source.tidied
    scene.control.unload("new")
    assert "sent/new" not in scene.source.tidied
    with pytest.raises(Internal, match="failed to load 'new', failed to poll from model repository"):
        scene.control.load("new")
    # a model of the files comes back as declared after it
    scene.control.load("echo", "{}", {"1/model.py": ""})
    scene.control.unload("echo")
    scene.control.load("echo")
    assert part(scene.runner.target, "echo") == part(target("mlp/1", "mlp/2", "echo/1"), "echo")


def test_a_load_that_fails_leaves_everything_as_it_was(scene: Scene) -> None:
    scene.cluster.broken = {"repo/2"}
    before = scene.runner.target
    with pytest.raises(Internal, match=r"failed to load 'repo', version 2 is at UNAVAILABLE state: no weights"):
        scene.control.load("repo")
    assert scene.runner.target == before
    index = {m["version"]: (m["state"], m["reason"]) for m in scene.control.index() if m["name"] == "repo"}
    assert index["2"][1].startswith("no weights")
    scene.cluster.broken = set()
    scene.control.load("repo")
    assert scene.states("repo") == {"repo/1": "READY", "repo/2": "READY"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("nothing",), Internal, "failed to load 'nothing', failed to poll from model repository"),
        (("repo", "bad"), Internal, "failed to load 'repo', .*the config is bad"),
        (("echo", "", {"1/m.py": ""}), Internal, "failed to load 'echo', .*need a 'config'"),
        (("",), InvalidArgument, NO_NAME),
        (("../echo",), InvalidArgument, TRAVERSAL),
        (("a/b",), InvalidArgument, TRAVERSAL),
        (("x" * 256,), InvalidArgument, "is not a model name"),
        (("echo", "c", {"1/m.py": "not base64!"}), InvalidArgument, "failed to decode"),
        (("echo", "c", {f"1/{n}": "" for n in range(1001)}), InvalidArgument, "more than 1000"),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_changes_nothing(scene: Scene, arguments: Any, error: type[Exception], words: str) -> None:
    before = scene.runner.target
    with pytest.raises(error, match=words):
        scene.control.load(*arguments)
    assert scene.runner.target == before


def test_nothing_may_be_done_where_it_is_off_but_the_index_is_there(scene: Scene) -> None:
    off = ModelControl(scene.runner, scene.source, allowed=False)
    for act in (lambda: off.load("echo"), lambda: off.unload("echo"), lambda: off.load("")):
        with pytest.raises(Unavailable, match=OFF):
            act()
    assert {m["name"] for m in off.index()} == {"echo", "mlp", "repo"}


def test_an_answer_waits_for_every_gateway(scene: Scene) -> None:
    scene.cluster.deaf = {"b"}
    control = ModelControl(scene.runner, scene.source, allowed=True, done_s=0.3)
    with pytest.raises(DeadlineExceeded, match=r"'echo' is not done after 0\.3 s"):
        control.unload("echo")
    scene.cluster.deaf = set()
    scene.control.load("echo")
    assert scene.states("echo") == {"echo/1": "READY"}


def test_handlers_take_what_gateways_send(scene: Scene) -> None:
    handlers = scene.control.handlers
    assert handlers["unload"]({"model": "echo"}) == {}
    assert handlers["load"]({"model": "echo", "config": "", "files": {}}) == {"versions": ["1"]}
    assert {m["name"] for m in handlers["index"]({})["models"]} == {"echo", "mlp", "repo"}


# The edits alone


def names(deployments: Iterable[DeploymentTarget]) -> list[str]:
    return [d.key for d in deployments]


def test_the_shelf_keeps_what_was_declared_first() -> None:
    now = target("a/1", "b/1")
    other = replace(part(now, "a"), deployments=tuple(replace(d, replicas=3) for d in part(now, "a").deployments))
    changed = loaded(now, other, keep=True)
    again = loaded(changed, replace(other, deployments=tuple(replace(d, replicas=5) for d in other.deployments)), keep=True)
    gone = unloaded(again, "a", keep=True)
    assert names(gone.deployments) == ["b/1"]
    assert [d.replicas for d in gone.shelf.deployments] == [1]
    known = declared(gone, "a")
    assert known is not None
    assert loaded(gone, known, keep=False) == replace(now, deployments=(*gone.deployments, *known.deployments), routes=now.routes)
    assert Target.from_json(gone.to_json()) == gone
    assert declared(gone, "c") is None


def test_a_model_comes_back_as_it_was_before() -> None:
    now = target("a/1", "b/1")
    gone = unloaded(now, "a", keep=True)
    assert part(restored(gone, now, "a"), "a") == part(now, "a")
    assert restored(gone, now, "a").shelf == now.shelf
    assert restored(loaded(gone, part(now, "a"), keep=False), gone, "a") == gone
