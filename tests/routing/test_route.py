from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import NotFound
from serving.routing import Route, RouteTable, Rule, Shadow, Share, Sticky, Traffic, choose, part_words, traffic_words
from tests.routing.routes import traffics

VERSIONS = ("1", "2", "3")
FULL = Traffic(
    (Share("1", 9500), Share("2", 500)),
    Sticky("header", "x-user"),
    (Rule("2", "header", "x-tester", "equals", "yes"), Rule("3", "parameter", "land", "matches", "d.*")),
    (Shadow("3", 1000),),
)


@given(traffics(VERSIONS), st.sampled_from(VERSIONS))
def test_a_table_comes_back_from_json(traffic: Traffic, stable: str) -> None:
    table = RouteTable(7, {"m": Route("m", stable, VERSIONS, True, traffic), "plain": Route("plain", "1", ("1",))})
    assert RouteTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_a_table_of_an_engine_that_knew_no_traffic_can_be_read() -> None:
    assert RouteTable.from_json({"revision": 3, "routes": [["m", "2", ["1", "2"], False]]}) == RouteTable(
        3, {"m": Route("m", "2", ("1", "2"))}
    )


def test_a_pinned_version_is_itself_whatever_the_traffic() -> None:
    table = RouteTable(1, {"m": Route("m", "1", VERSIONS, traffic=FULL)})
    assert [choose(table, "m", v) for v in VERSIONS] == list(VERSIONS)
    with pytest.raises(NotFound, match="Request for unknown model: 'm' version 9 is not found"):
        choose(table, "m", "9")


@pytest.mark.parametrize(
    ("before", "after", "gains"),
    [
        (None, Route("m", "1", VERSIONS), {"1"}),
        (Route("m", "1", VERSIONS), Route("m", "2", VERSIONS), {"2"}),
        (Route("m", "1", VERSIONS), Route("m", "1", VERSIONS, traffic=FULL), {"2", "3"}),
        (Route("m", "1", VERSIONS, traffic=FULL), Route("m", "1", VERSIONS), {"1"}),
        (
            Route("m", "1", VERSIONS, traffic=Traffic((Share("1", 5000), Share("2", 5000)))),
            Route("m", "1", VERSIONS, traffic=Traffic((Share("1", 4000), Share("2", 4000), Share("3", 2000)))),
            {"3"},
        ),
        (Route("m", "1", VERSIONS, traffic=Traffic(shadows=(Shadow("3", 1),))), Route("m", "1", VERSIONS), set()),
        (
            Route("m", "1", VERSIONS, traffic=Traffic((Share("1", 0), Share("2", 10_000)))),
            Route("m", "2", VERSIONS, traffic=Traffic((Share("2", 10_000),))),
            set(),
        ),
    ],
)
def test_who_gains_has_to_be_ready_first(before: Route | None, after: Route, gains: set[str]) -> None:
    assert after.gains(before) == gains


@pytest.mark.parametrize(
    ("traffic", "words"),
    [
        (Traffic(), "1"),
        (Traffic((Share("1", 9999), Share("2", 1))), "99.99 % to 1 and 0.01 % to 2"),
        (
            Traffic((Share("1", 5000), Share("2", 3000), Share("3", 2000)), Sticky("address")),
            "50 % to 1, 30 % to 2 and 20 % to 3 by address",
        ),
        (
            FULL,
            "95 % to 1 and 5 % to 2 by header x-user; header x-tester = 'yes' to 2; parameter land ~ 'd.*' to 3; copies of 10 % to 3",
        ),
        (Traffic(shadows=(Shadow("2", 10_000, 4, 1 << 20),)), "100 % to 1; copies of 100 % to 2 (at most 4 and 1 MB under way)"),
    ],
)
def test_traffic_reads_as_words(traffic: Traffic, words: str) -> None:
    assert traffic_words(Route("m", "1", VERSIONS, traffic=traffic)) == words


@given(traffics(VERSIONS))
def test_words_are_one_line_whatever_names_and_patterns_hold(traffic: Traffic) -> None:
    assert traffic_words(Route("m", "1", VERSIONS, traffic=traffic)).isprintable()


def test_each_version_is_told_its_part() -> None:
    route = Route("m", "1", ("1", "2", "3", "4"), traffic=FULL)
    assert [part_words(route, v) for v in route.versions] == ["95 %", "5 %, by rule", "by rule, copies of 10 %", ""]
