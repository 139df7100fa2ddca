"""Who answers while replicas come and go, and what copies may cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.errors import Code, Unavailable
from serving.gateway.call import Call, Description
from serving.gateway.head import Head, new_head
from serving.gateway.local import LocalChannel
from serving.gateway.service import Service
from serving.gateway.tally import Tally
from serving.inference import Buffer, InferRequest, InferResponse, Layout, TensorLayout
from serving.routing import PLAIN, Route, RouteTable, Rule, Shadow, Share, Sticky, Traffic, keyed_parts, point_of
from serving.state import GatewayLimits, GatewayState
from serving.tensor import DType, Signature, TensorSpec

VERSIONS = ("1", "2", "3")
SIGNATURE = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (4,)), TensorSpec("z", DType.FP32, (4,))), 8)
OTHER = Signature((TensorSpec("x", DType.FP64, (4,)),), SIGNATURE.outputs, 8)
X = Layout((TensorLayout.fixed("x", DType.FP32, (1, 4)),), ("y",))
SPLIT = Traffic((Share("1", 6000), Share("2", 3000), Share("3", 1000)))


@dataclass
class Asker:
    """Who asks, with a head of its own."""

    address: bytes = b"10.0.0.1"
    head: Head = field(default_factory=new_head)

    @classmethod
    def of(cls, **headers: str) -> Asker:
        asker = cls()
        asker.head.headers = {name.encode(): value.encode() for name, value in headers.items()}
        return asker


class Held(LocalChannel):
    """A replica that answers when it is told to."""

    def __init__(self, service: Service, version: str, signature: Signature) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop, service.calls.deliver, [Description("m", version, signature, "here")], self._predict)
        self.seen: list[Layout] = []
        self._service = service

    def _predict(self, layout: Layout, payload: Buffer) -> InferResponse:
        self.seen.append(layout)
        return InferResponse("m", "", X, payload)

    def gone(self) -> None:
        self.usable = False
        self._service._peers.leave(self)

    def back(self) -> None:
        self.usable = True
        self._service.attach(self)


class Silent:
    """Owner of live calls."""

    def __init__(self) -> None:
        self.codes: list[Code] = []

    def answer(self, call: Call, response: InferResponse) -> None:
        self.codes.append(response.code)


class Stage:
    """A service with one replica for each of three versions."""

    def __init__(self, traffic: Traffic, stable: str = "1", signatures: dict[str, Signature] | None = None, **limits: Any) -> None:
        self.tally = Tally()
        self.limits = GatewayLimits(**limits)
        self.service = Service(self.tally, self.limits, asyncio.get_running_loop())
        self.revision = 0
        self.edit(traffic, stable)
        self.replicas = {v: Held(self.service, v, (signatures or {}).get(v, SIGNATURE)) for v in VERSIONS}
        for replica in self.replicas.values():
            self.service.attach(replica)
        self.owner = Silent()

    def edit(self, traffic: Traffic, stable: str = "1") -> None:
        self.revision += 1
        self.service.apply(GatewayState(RouteTable(self.revision, {"m": Route("m", stable, VERSIONS, traffic=traffic)}), self.limits))

    def chosen(self, count: int = 1000, asker: Asker | None = None) -> Counter[str]:
        asker = asker or Asker()
        return Counter(self.service.versions.resolve("m", "", asker, b"").version for _ in range(count))

    def submit(self, version: str = "", layout: Layout = X) -> None:
        served = self.service.versions.resolve("m", version, Asker(), b"")
        self.service.calls.submit(served, InferRequest("m", version, layout, (bytes(layout.payload_bytes),)), self.owner, None, "rest")

    def count(self, name: str, **labels: str) -> int:
        return sum(s[3] for s in self.tally.samples() if s[0] == name and labels.items() <= s[2].items())

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)


async def test_shares_are_exact_from_the_first_requests_on() -> None:
    stage = Stage(SPLIT)
    for _ in range(5):
        found = stage.chosen(1000)
        assert all(abs(found[v] - n) <= 4 for v, n in (("1", 600), ("2", 300), ("3", 100)))


async def test_a_version_that_cannot_answer_hands_its_share_to_the_stable_one_and_gets_it_back() -> None:
    stage = Stage(SPLIT)
    stage.replicas["2"].gone()
    found = stage.chosen()
    assert set(found) == {"1", "3"}
    assert abs(found["1"] - 900) <= 4
    stage.replicas["2"].back()
    assert abs(stage.chosen()["2"] - 300) <= 4


async def test_without_the_stable_version_the_largest_share_stands_in() -> None:
    stage = Stage(SPLIT)
    stage.replicas["1"].gone()
    found = stage.chosen()
    assert set(found) == {"2", "3"}
    assert abs(found["2"] - 900) <= 4
    assert stage.service.versions.resolve("m", "").version == "2"
    stage.replicas["2"].gone()
    assert set(stage.chosen()) == {"3"}


async def test_where_nobody_can_answer_it_is_said_so() -> None:
    stage = Stage(SPLIT)
    for replica in stage.replicas.values():
        replica.gone()
    with pytest.raises(Unavailable, match="is not at ready state"):
        stage.submit()
    empty = Service(Tally(), GatewayLimits(), asyncio.get_running_loop())
    empty.apply(GatewayState(RouteTable(1, {"m": Route("m", "1", VERSIONS, traffic=SPLIT)})))
    with pytest.raises(Unavailable, match="'m' version 1 is not at ready state"):
        empty.versions.resolve("m", "", Asker(), b"")


async def test_keys_keep_their_version_over_an_outage_and_an_edit() -> None:
    stage = Stage(Traffic(SPLIT.split, Sticky("header", "x-user")))
    parts = keyed_parts({"1": 6000, "2": 3000, "3": 1000})
    users = {f"u{i}": parts[point_of(b"m\0", b"u%d" % i)] for i in range(40)}
    askers = {user: Asker.of(**{"x-user": user}) for user in users}

    def versions() -> dict[str, str]:
        return {user: next(iter(stage.chosen(1, asker))) for user, asker in askers.items()}

    assert versions() == users
    stage.replicas["2"].gone()
    assert versions() == {user: "1" if v == "2" else v for user, v in users.items()}
    stage.replicas["2"].back()
    assert versions() == users
    stage.edit(PLAIN)
    assert set(versions().values()) == {"1"}
    stage.edit(Traffic(SPLIT.split, Sticky("header", "x-user")))
    assert versions() == users


async def test_a_head_is_looked_at_once_for_each_route_and_anew_after_an_edit() -> None:
    stage = Stage(Traffic(rules=(Rule("2", "header", "x-tester", "equals", "yes"),)))
    asker = Asker.of(**{"x-tester": "yes"})
    assert set(stage.chosen(3, asker)) == {"2"}
    kept = asker.head.choice
    assert set(stage.chosen(3, asker)) == {"2"}
    assert asker.head.choice is kept
    stage.edit(Traffic(rules=(Rule("3", "header", "x-tester", "equals", "yes"),)))
    assert set(stage.chosen(3, asker)) == {"3"}


async def test_a_route_that_is_edited_elsewhere_keeps_its_place_in_the_turn() -> None:
    stage = Stage(SPLIT)
    found: Counter[str] = Counter()
    for _ in range(1000):
        found += stage.chosen(1)
        stage.edit(SPLIT)
    assert all(abs(found[v] - n) <= 4 for v, n in (("1", 600), ("2", 300), ("3", 100)))


# Shadows


def shadow(points: int = 10_000, requests: int = 32, nbytes: int = 1 << 20) -> Traffic:
    return Traffic(shadows=(Shadow("2", points, requests, nbytes),))


async def test_a_copy_leaves_after_the_request_and_its_answer_goes_nowhere() -> None:
    stage = Stage(shadow())
    stage.submit()
    assert stage.replicas["2"].inflight == 0
    await stage.until(lambda: stage.count("serving_requests_total", version="2", protocol="shadow", outcome="ok") == 1)
    assert stage.owner.codes == [Code.OK]
    (copied,) = stage.replicas["2"].seen
    assert (copied.tensors, copied.outputs) == (X.tensors, ("y",))
    assert copied is not stage.replicas["1"].seen[0]
    assert stage.count("serving_inflight_requests") == 0


async def test_no_more_is_copied_than_the_budget_holds() -> None:
    stage = Stage(shadow(requests=3))
    for _ in range(10):
        stage.submit()
    await stage.until(lambda: len(stage.owner.codes) == 10 and not stage.count("serving_inflight_requests"))
    assert len(stage.replicas["2"].seen) == 3
    assert stage.count("serving_rejected_total", version="2", reason="shadow_budget") == 7
    stage.submit()
    await stage.until(lambda: len(stage.replicas["2"].seen) == 4)

    stage = Stage(shadow(nbytes=40))
    for _ in range(10):
        stage.submit()
    await stage.until(lambda: len(stage.owner.codes) == 10 and not stage.count("serving_inflight_requests"))
    assert len(stage.replicas["2"].seen) == 2


async def test_nothing_is_copied_while_the_gateway_is_half_full() -> None:
    stage = Stage(shadow(), max_inflight_requests=8)
    for _ in range(6):
        stage.submit()
    await stage.until(lambda: len(stage.owner.codes) == 6 and not stage.count("serving_inflight_requests"))
    assert stage.owner.codes == [Code.OK] * 6
    assert len(stage.replicas["2"].seen) == 3


async def test_a_shadow_with_other_inputs_or_without_a_replica_gets_nothing() -> None:
    stage = Stage(shadow(), signatures={"2": OTHER})
    for _ in range(3):
        stage.submit()
    await stage.until(lambda: len(stage.owner.codes) == 3)
    assert stage.count("serving_rejected_total", version="2", reason="shadow_inputs") == 3
    stage.edit(Traffic(shadows=(Shadow("3", 10_000),)))
    stage.replicas["3"].gone()
    stage.submit()
    await stage.until(lambda: len(stage.owner.codes) == 4)
    assert (stage.replicas["2"].seen, stage.replicas["3"].seen) == ([], [])


async def test_a_shadow_that_goes_between_a_request_and_its_copy_costs_nobody_anything() -> None:
    stage = Stage(shadow(requests=2))
    for _ in range(2):
        stage.submit()
    stage.replicas["2"].gone()
    await stage.until(lambda: len(stage.owner.codes) == 2)
    stage.replicas["2"].back()
    for _ in range(2):
        stage.submit()
    await stage.until(lambda: len(stage.replicas["2"].seen) == 2)


async def test_a_share_of_requests_is_copied_and_none_that_the_version_answers_itself() -> None:
    stage = Stage(shadow(points=2500, requests=4000, nbytes=1 << 30))
    for _ in range(2000):
        stage.submit()
    await stage.until(lambda: len(stage.owner.codes) == 2000 and not stage.count("serving_inflight_requests"))
    assert 400 < len(stage.replicas["2"].seen) < 600
    before = stage.count("serving_requests_total", protocol="shadow")
    for _ in range(50):
        stage.submit("2")
    await stage.until(lambda: len(stage.owner.codes) == 2050 and not stage.count("serving_inflight_requests"))
    assert stage.count("serving_requests_total", protocol="shadow") == before
    stage.edit(PLAIN)
    assert all(stage.service.versions.resolve("m", v).mirror is None for v in VERSIONS)
