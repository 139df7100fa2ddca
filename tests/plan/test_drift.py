"""Where an engine differs from its files, value by value."""

from __future__ import annotations

from dataclasses import replace

from serving.plan import EngineSettings, Target, drift
from tests.plan.test_outlook import target, version


def told(declared: Target, running: Target, whole: bool = False) -> list[tuple[str, object, object]]:
    return [(d.place, d.declared, d.running) for d in drift(declared, running, whole)]


def test_equal_targets_have_none() -> None:
    assert told(target(version("mlp/1")), target(version("mlp/1"))) == []


def test_each_value_has_its_place() -> None:
    declared = target(version("mlp/1", replicas=2, digest="a"), version("mlp/2"), mlp="2")
    running = target(version("mlp/1", replicas=1, digest="b"), version("mlp/2"), mlp="1")
    assert told(declared, running) == [
        ("models.mlp.traffic.stable", "2", "1"),
        ("models.mlp.versions.1.replicas", 2, 1),
        ("models.mlp.versions.1.contents", "a", "b"),
    ]


def test_a_version_or_a_model_that_one_side_lacks_is_one_line() -> None:
    (version_gone, *_) = told(target(version("mlp/1"), version("mlp/2"), mlp="1"), target(version("mlp/1")))
    assert (version_gone[0], version_gone[2]) == ("models.mlp.versions.2", None)
    ((place, declared, running),) = told(target(version("new/1")), Target())
    assert (place, running) == ("models.new", None)
    assert declared


def test_other_models_are_drift_only_where_the_files_are_all_that_should_run() -> None:
    declared, running = target(version("mlp/1")), target(version("mlp/1"), version("echo/1"))
    assert told(declared, running) == []
    assert [d[0] for d in told(declared, running, whole=True)] == ["models.echo"]


def test_only_stated_settings_count() -> None:
    declared, running = target(version("mlp/1")), replace(target(version("mlp/1")), settings=EngineSettings(3))
    assert told(declared, running) == []
    assert told(replace(declared, given=frozenset({"gateways"})), running) == [("gateways", 1, 3)]
