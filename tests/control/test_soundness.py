"""A Target in a request: it is one that the engine can work with, or it is refused; nothing in between reaches a revision."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.settings import AccessSettings, JwtSettings
from serving.control.acceptance import Act, accept, effects
from serving.control.order import target_of
from serving.control.soundness import sound
from serving.errors import InvalidArgument
from serving.plan import EngineSettings, Shelf, Target, Webhook, World, fingerprint, outlook
from serving.routing import Route, RouteTable, Rule, Shadow, Share, Sticky, Traffic
from tests.control.fake_cluster import FakeStore, target

TRAFFIC = Traffic(
    (Share("1", 9_000), Share("2", 1_000)),
    Sticky("header", "x-user"),
    (Rule("2", "parameter", "who", "matches", "me.*"),),
    (Shadow("2", 100),),
)
RICH = replace(
    target("mlp/1", "mlp/2", "echo/1"),
    settings=EngineSettings(
        access=AccessSettings(True, JwtSettings("/k.json", "https://idp", ("serving",)), approval=("mlp",)),
        webhooks=(Webhook("https://hooks.test/x", "SECRET"),),
    ),
    shelf=Shelf(target("shelved/1").deployments, target("shelved/1").routes),
)
RICH = replace(RICH, routes=RouteTable(0, {**RICH.routes.routes, "mlp": Route("mlp", "1", ("1", "2"), False, TRAFFIC)}))
JUNK = [None, 1, 0, -1, 1.5, float("nan"), float("inf"), 1 << 70, True, "x", "", "1", "\ud800", "../a", [], {}, [1], {"a": 1}, [["1", 1]]]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*at, i))


PLACES = list(places(RICH.to_json()))


def sent(value: Target) -> Target:
    return target_of(json.loads(json.dumps(value.to_json())), None, lambda _: value)


def test_what_yaml_says_is_sound() -> None:
    assert sent(RICH) == RICH
    assert sound(Target()) == Target()


@given(st.sampled_from(PLACES), st.sampled_from(JUNK))
def test_a_value_of_another_kind_is_refused_or_can_be_worked_with(place: tuple[Any, ...], junk: Any) -> None:
    wrong = copy.deepcopy(RICH.to_json())
    inner = wrong
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = junk
    try:
        found = target_of(wrong, None, lambda _: RICH)
    except InvalidArgument:
        return
    # all that the controller does with it before anything runs, and what it shows and keeps
    assert Target.from_json(json.loads(json.dumps(found.to_json()))) == found
    effects(RICH, found)
    effects(found, RICH)
    outlook(found, World.of(RICH), [])
    fingerprint(found)
    accept(FakeStore(), None, found, Act("a", "b"), 1.0)


def with_route(**words: Any) -> Target:
    return replace(RICH, routes=RouteTable(0, {**RICH.routes.routes, "mlp": replace(RICH.routes.routes["mlp"], **words)}))


def with_first(**words: Any) -> Target:
    first = RICH.deployments[0]
    plan = {name: words.pop(name) for name in list(words) if hasattr(first.plan, name)}
    return replace(RICH, deployments=(replace(first, plan=replace(first.plan, **plan), **words), *RICH.deployments[1:]))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (with_route(stable="3"), "mlp: version 3 is not one of its versions"),
        (with_route(versions=("1",)), "mlp: version 2 is not one of its versions"),
        (with_route(versions=("1", "2", "3")), "mlp: its versions are 1, 2, not 1, 2, 3"),
        (with_route(traffic=Traffic((Share("1", 9_000),))), "mlp: shares of 9000 points; expected 10000 in all, each version once"),
        (with_route(traffic=Traffic((Share("1", 11_000), Share("2", -1_000)))), "mlp: shares of 11000, -1000 points"),
        (with_route(traffic=Traffic(shadows=(Shadow("2", 10_001),))), "the shadow of version 2 has numbers out of range"),
        (with_route(traffic=Traffic(rules=(Rule("2", "header", "x", "matches", "("),))), "a pattern that is none: "),
        (with_route(traffic=Traffic(rules=(Rule("2", "address", "", "equals", "x"),))), "looks at no header and no parameter"),
        (with_route(traffic=Traffic(sticky=Sticky("header"))), "sticky names no header and no parameter"),
        (with_first(replicas=0), "mlp/1: replicas is 0, expected a number from 1 to 10000"),
        (with_first(cpus=float("nan")), "mlp/1: cpus is nan, expected a number from 0 to 4096"),
        (with_first(memory_mb=-1), "mlp/1: memory_mb is -1"),
        (with_first(warm_up=(0,)), "mlp/1: warm_up has a batch of no rows"),
        (with_first(version="one"), "'one' (a version is a whole number"),
        (with_first(model="../x"), "'../x' is not a model name"),
        (with_first(version="2"), "mlp/2 stands there 2 times"),
        (replace(RICH, deployments=(*RICH.deployments, *target("more/1").deployments)), "more has no route"),
        (replace(RICH, shelf=Shelf((), target("shelved/1").routes)), "shelf: shelved: its versions are none, not 1"),
        (replace(RICH, settings=replace(RICH.settings, gateways=0)), "settings: gateways is 0, expected a number from 1 to 256"),
        (replace(RICH, settings=replace(RICH.settings, edge="maybe")), "settings.edge"),  # type: ignore[arg-type]
        (replace(RICH, settings=replace(RICH.settings, forward_headers="(")), "settings: forward_headers is no pattern"),
        (
            replace(RICH, settings=replace(RICH.settings, access=AccessSettings(True, JwtSettings("/k", roles={"x": "king"})))),
            "'king' is not a role",
        ),
        (replace(RICH, descriptions={"mlp": "\ud800"}), "a lone surrogate"),
        (with_first(replicas="2"), "is given as text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(wrong: Target, said: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        sent(wrong)
    assert said in raised.value.message
