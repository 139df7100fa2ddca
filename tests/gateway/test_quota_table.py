"""Quotas that several gateways count together: on paper with two tables of one file, and by processes that ask as fast as they can."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.access.identity import Identity, Quota
from serving.access.key import KeyHash
from serving.access.settings import AccessRules
from serving.errors import TooManyRequests
from serving.gateway.client_limits import ClientLimits, client_name
from serving.gateway.quota_table import DEAD_S, ENTRIES, PROBES, QuotaTable
from serving.state import GatewayLimits

CI = client_name(Identity("ci", ()))


def gateways(file: Path, count: int = 2, now: float = 0.0, **quota: float) -> list[ClientLimits]:
    rules = AccessRules((KeyHash("id", "digest", "ci", ("predictor",), **quota),))  # type: ignore[arg-type]
    found = [ClientLimits(GatewayLimits(), rules) for _ in range(count)]
    for lane, limits in enumerate(found):
        limits.table = QuotaTable(file, lane, now)
    return found


def asks(limits: ClientLimits, now: float, name: bytes = CI) -> bool:
    try:
        limits.ask(name, now)
    except TooManyRequests:
        return False
    return True


def test_gateways_share_one_bucket(tmp_path: Path) -> None:
    one, two = gateways(tmp_path / "q", requests_per_s=10, burst=4)
    assert [asks(g, 100.0) for g in (one, two, two, one, two, one)] == [True] * 4 + [False] * 2
    assert [asks(g, t) for g, t in ((two, 100.1), (one, 100.1), (one, 100.2))] == [True, False, True]
    with pytest.raises(TooManyRequests, match="10 requests a second") as e:
        two.ask(CI, 100.25)
    assert e.value.retry_after_s == pytest.approx(0.05)


def test_one_gateway_alone_may_use_all_of_it(tmp_path: Path) -> None:
    one, two, three = gateways(tmp_path / "q", 3, requests_per_s=10, burst=6)
    assert sum(asks(one, 100.0) for _ in range(10)) == 6
    assert not asks(two, 100.0)
    assert sum(asks(three, 200.0) for _ in range(10)) == 6


def test_requests_under_way_are_counted_of_all(tmp_path: Path) -> None:
    one, two = gateways(tmp_path / "q", inflight_requests=3)
    held = [g.ask(CI, 1.0) for g in (one, two, two)]
    for client in held:
        client.enter()
    with pytest.raises(TooManyRequests, match="this client has 3 requests under way, of at most 3"):
        one.ask(CI, 1.0)
    held[2].leave()
    assert asks(one, 1.0)


def test_what_a_dead_gateway_had_under_way_is_forgotten(tmp_path: Path) -> None:
    one, two = gateways(tmp_path / "q", inflight_requests=1)
    one.ask(CI, 1.0).enter()
    assert one.table is not None
    assert two.table is not None
    two.table.beat(DEAD_S)
    assert not asks(two, DEAD_S)
    assert asks(two, DEAD_S + 1.0)
    # another holder of the lane has nothing under way either
    two.ask(CI, 7.0).enter()
    (again,) = gateways(tmp_path / "q", 1, 7.0, inflight_requests=1)
    assert not asks(again, 7.0)
    two.table.beat(7.0)
    again.table = QuotaTable(tmp_path / "q", 1, 7.0)
    assert asks(again, 7.0)


def test_the_time_of_a_bucket_survives_its_gateways(tmp_path: Path) -> None:
    (one,) = gateways(tmp_path / "q", 1, requests_per_s=1, burst=2)
    assert [asks(one, 50.0) for _ in range(3)] == [True, True, False]
    one, two = gateways(tmp_path / "q", requests_per_s=1, burst=2)
    assert [asks(one, 50.5), asks(two, 51.0), asks(one, 51.0)] == [False, True, False]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([0.5, 3.0, 10.0]),
    burst=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1).map(lambda s: round(s, 3))), max_size=60),
    name=st.text(min_size=1, max_size=30),
)
def test_no_span_of_time_has_more_than_bucket_and_rate_allow_and_none_is_refused_for_less(
    tmp_path: Path, rate: float, burst: int, steps: list[tuple[int, float]], name: str
) -> None:
    key = client_name(Identity(name, ()))
    file = tmp_path / "q"
    file.unlink(missing_ok=True)
    three = [ClientLimits(GatewayLimits(), AccessRules(quota=Quota(rate, burst))) for _ in range(3)]
    for lane, limits in enumerate(three):
        limits.table = QuotaTable(file, lane, 0.0)
        limits.learn(Identity(name, (), quota=Quota(rate, burst)))
    alone = ClientLimits(GatewayLimits(client_requests_per_s=rate, client_burst=burst))
    now = 1000.0
    for gateway, step in steps:
        now += step
        assert asks(three[gateway], now, key) == asks(alone, now, b"a")


def test_who_finds_no_room_is_counted_by_each_gateway(tmp_path: Path) -> None:
    (one,) = gateways(tmp_path / "q", 1, requests_per_s=1, burst=1)
    table = one.table
    assert table is not None
    for key in range(1, PROBES + 1):
        entry = table.find(key * ENTRIES, 0.0)
        assert entry == key - 1
        table.note(entry, 1)
    assert table.find(99 * ENTRIES, 0.0) == -1
    table.note(3, 0)
    assert table.find(99 * ENTRIES, 0.0) == 3
    assert not table.holds(3, 4 * ENTRIES)


def test_a_quota_that_comes_while_it_runs_counts_with_the_others(tmp_path: Path) -> None:
    one, two = gateways(tmp_path / "q")
    everybody = GatewayLimits(client_requests_per_s=1000.0)
    rules = AccessRules((KeyHash("id", "digest", "ci", ("predictor",), requests_per_s=1.0, burst=2),))
    for limits in (one, two):
        limits.limit(everybody, AccessRules())
        assert asks(limits, 10.0)
        limits.limit(everybody, rules)
    assert [asks(g, 11.0) for g in (one, two, one, two)] == [True, True, False, False]
    assert asks(one, 11.0, b"10.0.0.1")


HAMMER = """
import json, sys, time
from pathlib import Path
from tests.gateway.test_quota_table import CI, asks, gateways
from serving.gateway.quota_table import QuotaTable
file, lane, rate, burst = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
(limits,) = gateways(file, 1, time.monotonic(), requests_per_s=rate, burst=burst)
limits.table = QuotaTable(file, lane, time.monotonic())
print("there", flush=True)
sys.stdin.readline()
first, taken = time.monotonic(), 0
while time.monotonic() < first + 0.5:
    taken += asks(limits, time.monotonic())
print(json.dumps([first, time.monotonic(), taken]), flush=True)
"""


def test_processes_that_ask_at_once_get_the_quota_together(tmp_path: Path) -> None:
    rate, burst = 2000.0, 50
    file = tmp_path / "q"
    command = [sys.executable, "-c", HAMMER, str(file)]
    running = [
        subprocess.Popen([*command, str(lane), str(rate), str(burst)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for lane in range(1, 4)
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "there\n"
    found = [json.loads(one.communicate("go\n", timeout=60)[0]) for one in running]
    assert [one.returncode for one in running] == [0, 0, 0]
    lasted = max(f[1] for f in found) - min(f[0] for f in found)
    taken = sum(f[2] for f in found)
    assert taken >= burst
    # each of the others may be let in once at a moment that had room for one
    assert taken <= burst + rate * lasted + len(running)
