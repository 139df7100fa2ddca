from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import pytest
from hypothesis import given, settings

from serving.plan import (
    Change,
    ChangeSettings,
    EditRoute,
    EngineSettings,
    Rebatch,
    Replace,
    ResizeGateways,
    Running,
    Scale,
    Start,
    Stop,
    Target,
    World,
    diff,
)
from serving.routing import Route, RouteTable, Shadow, Share, Sticky, Traffic
from serving.state import GatewayLimits
from tests.plan.deployments import deployment, routes, targets, world_of

MLP_1 = Route("mlp", "1", ("1",))
ONE = Target(deployments=(deployment("mlp/1"),), routes=routes(MLP_1))


def after(world: World, change: Change) -> World:
    """Return the world in which one change has been made (and nothing fails)."""
    runs = dict(world.deployments)
    match change:
        case Start(d) | Scale(_, d) | Rebatch(_, d) | Replace(_, d, _):
            runs[d.key] = Running(d, running=d.replicas)
        case Stop(d):
            del runs[d.key]
        case EditRoute():
            table = dict(world.routes.routes)
            if change.after is None:
                del table[change.subject]
            else:
                table[change.subject] = change.after
            return replace(world, routes=RouteTable(world.routes.revision + 1, table))
        case ResizeGateways():
            known = world.settings or EngineSettings()
            return replace(world, settings=replace(known, gateways=change.after), gateways=change.after)
        case ChangeSettings():
            gateways = world.settings.gateways if world.settings else change.after.gateways
            return replace(world, settings=replace(change.after, gateways=gateways))
        case _:
            assert_never(change)
    return replace(world, deployments=runs)


@settings(deadline=None)
@given(targets(), targets())
def test_the_changes_lead_from_any_world_to_the_target(old: Target, new: Target) -> None:
    world = world_of(old)
    for change in diff(new, world).changes:
        world = after(world, change)
    assert world.settings == new.settings
    assert {k: r.asked for k, r in world.deployments.items()} == {d.key: d for d in new.deployments}
    assert world.routes.routes == new.routes.routes
    assert not diff(new, world)


@settings(deadline=None)
@given(targets())
def test_the_changes_lead_from_nothing_to_the_target(target: Target) -> None:
    world = World()
    for change in diff(target, world).changes:
        world = after(world, change)
    assert not diff(target, world)


@settings(deadline=None)
@given(targets())
def test_a_world_as_it_should_be_needs_no_change(target: Target) -> None:
    assert diff(target, world_of(target)).changes == ()


@settings(deadline=None)
@given(targets(), targets())
def test_no_route_ever_names_a_version_that_does_not_run(old: Target, new: Target) -> None:
    world = world_of(old)
    for change in diff(new, world).changes:
        world = after(world, change)
        for route in world.routes.routes.values():
            assert {f"{route.endpoint}/{v}" for v in route.versions} <= set(world.deployments)


@settings(deadline=None)
@given(targets(), targets())
def test_a_version_that_takes_over_is_not_touched_again_but_to_shrink_or_rebatch(old: Target, new: Target) -> None:
    taken_over: set[str] = set()
    for change in diff(new, world_of(old)).changes:
        match change:
            case EditRoute(before, route) if route:
                taken_over |= {f"{route.endpoint}/{v}" for v in route.gains(before)}
            case Start() | Replace() | Stop():
                assert change.subject not in taken_over
            case _:
                pass


@settings(deadline=None)
@given(targets(), targets())
def test_every_effect_is_one_line_about_its_subject(old: Target, new: Target) -> None:
    for change in diff(new, world_of(old)).changes:
        assert "\n" not in change.effect
        assert change.subject in change.effect or change.subject == "gateways"


def test_replicas_that_have_not_come_up_are_no_reason_for_a_change() -> None:
    world = world_of(ONE)
    half_up = replace(world, deployments={"mlp/1": Running(deployment("mlp/1"), starting=1, failed=2)})
    assert not diff(ONE, half_up)


BOTH = Target(deployments=(deployment("mlp/1"), deployment("mlp/2", replicas=2)), routes=routes(Route("mlp", "2", ("1", "2"))))

CANARY = Traffic((Share("1", 500), Share("2", 9500)), Sticky("header", "x-user"))


@pytest.mark.parametrize(
    ("old", "new", "effects"),
    [
        (
            None,
            ONE,
            [
                "1 gateway starts",
                "settings: server_name serving, edge auto",
                "mlp/1 starts on 1 replica",
                "mlp answers with version 1",
            ],
        ),
        (ONE, BOTH, ["mlp/2 starts on 2 replicas", "traffic of mlp: 1 → 2, no restart"]),
        (BOTH, ONE, ["traffic of mlp: 2 → 1, no restart", "mlp/2 stops, 2 replicas drain and end"]),
        (ONE, Target(), ["mlp is no longer served", "mlp/1 stops, 1 replica drain and end"]),
        (ONE, replace(ONE, deployments=(deployment("mlp/1", replicas=3),)), ["mlp/1 scales from 1 to 3 replicas, no restart"]),
        (
            ONE,
            replace(ONE, deployments=(deployment("mlp/1", replicas=2, max_delay_s=0.002),)),
            ["mlp/1 scales from 1 to 2 replicas, no restart", "batching of mlp/1: max_delay_ms 0 → 2, no restart"],
        ),
        (
            ONE,
            replace(ONE, deployments=(deployment("mlp/1", max_batch_size=8, execution="inline"),)),
            ["mlp/1 restarts on 1 replica: max_batch_size and execution changed"],
        ),
        (
            ONE,
            replace(ONE, deployments=(deployment("mlp/1", digest="other"),)),
            ["mlp/1 restarts on 1 replica: the artefact's contents changed"],
        ),
        (
            ONE,
            replace(ONE, deployments=(replace(deployment("mlp/1"), gpus=0.5, labels={"zone": "b"}),)),
            ["mlp/1 restarts on 1 replica: gpus and labels changed"],
        ),
        (
            ONE,
            Target(deployments=(*ONE.deployments, replace(deployment("echo/1"), gpus=2)), routes=ONE.routes),
            ["echo/1 starts on 1 replica, 2 GPUs each"],
        ),
        (
            BOTH,
            replace(BOTH, routes=routes(Route("mlp", "2", ("2",), True))),
            ["mlp: version 1 can no longer be asked for; a request is never sent a second time, no restart"],
        ),
        (
            BOTH,
            replace(BOTH, routes=routes(Route("mlp", "2", ("1", "2"), traffic=CANARY))),
            ["traffic of mlp: 2 → 5 % to 1 and 95 % to 2 by header x-user, no restart"],
        ),
        (
            replace(BOTH, routes=routes(Route("mlp", "2", ("1", "2"), traffic=CANARY))),
            replace(BOTH, routes=routes(Route("mlp", "1", ("1", "2"), traffic=CANARY))),
            ["mlp: version 1 stands in for others, instead of 2, no restart"],
        ),
        (
            None,
            replace(BOTH, routes=routes(Route("mlp", "2", ("1", "2"), traffic=Traffic(shadows=(Shadow("1", 1000),))))),
            [
                "1 gateway starts",
                "settings: server_name serving, edge auto",
                "mlp/1 starts on 1 replica",
                "mlp/2 starts on 2 replicas",
                "mlp answers: 100 % to 2; copies of 10 % to 1",
            ],
        ),
        (ONE, replace(ONE, settings=EngineSettings(gateways=3)), ["gateways: 1 → 3"]),
        (
            replace(ONE, settings=EngineSettings(gateways=3)),
            ONE,
            ["gateways: 3 → 1, those that leave drain first"],
        ),
        (
            ONE,
            replace(ONE, settings=EngineSettings(limits=GatewayLimits(request_timeout_s=5.0))),
            ["settings: limits.request_timeout_s 300.0 → 5.0, no restart"],
        ),
        (ONE, replace(ONE, settings=EngineSettings(edge="always")), ["settings: edge auto → always, the edge restarts"]),
    ],
)
def test_effects_read_as_sentences(old: Target | None, new: Target, effects: list[str]) -> None:
    plan = diff(new, world_of(old) if old else World())
    assert str(plan).split("\n") == effects


def test_a_replaced_version_that_takes_over_restarts_before_the_route_and_the_other_after_it() -> None:
    held = replace(BOTH, deployments=tuple(replace(d, digest="new") for d in BOTH.deployments))
    world = world_of(replace(BOTH, routes=routes(Route("mlp", "1", ("1", "2")))))
    kinds = [(type(c).__name__, c.subject) for c in diff(held, world).changes]
    assert kinds == [("Replace", "mlp/2"), ("EditRoute", "mlp"), ("Replace", "mlp/1")]


def test_a_replaced_version_that_keeps_its_share_restarts_after_the_route() -> None:
    world = world_of(replace(BOTH, routes=routes(Route("mlp", "2", ("1", "2"), traffic=CANARY))))
    target = replace(
        BOTH,
        deployments=tuple(replace(d, digest="new") for d in BOTH.deployments),
        routes=routes(Route("mlp", "2", ("1", "2"), traffic=replace(CANARY, sticky=None))),
    )
    kinds = [(type(c).__name__, c.subject) for c in diff(target, world).changes]
    assert kinds == [("EditRoute", "mlp"), ("Replace", "mlp/1"), ("Replace", "mlp/2")]


def test_a_plan_in_json_names_each_change() -> None:
    assert diff(BOTH, world_of(ONE)).to_json() == {
        "changes": [
            {"change": "start", "subject": "mlp/2", "effect": "mlp/2 starts on 2 replicas"},
            {"change": "route", "subject": "mlp", "effect": "traffic of mlp: 1 → 2, no restart"},
        ]
    }


def test_an_empty_plan_says_so() -> None:
    plan = diff(ONE, world_of(ONE))
    assert (str(plan), bool(plan)) == ("nothing to change", False)
