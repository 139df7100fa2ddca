from __future__ import annotations

import json

from hypothesis import given, settings

from serving.plan import Running, Target
from tests.plan.deployments import deployment, targets, world_of


@settings(deadline=None)
@given(targets())
def test_a_target_comes_back_from_its_json_text(target: Target) -> None:
    assert Target.from_json(json.loads(json.dumps(target.to_json()))) == target


@settings(deadline=None)
@given(targets())
def test_a_world_can_be_written_as_json(target: Target) -> None:
    value = json.loads(json.dumps(world_of(target).to_json()))
    assert [*value["deployments"]] == [d.key for d in target.deployments]


def test_a_deployment_is_ready_with_one_replica_and_settled_with_all() -> None:
    two = deployment(replicas=2)
    states = [Running(two, starting=2), Running(two, running=1, starting=1), Running(two, running=2), Running(two, running=2, failed=1)]
    assert [(s.ready, s.settled) for s in states] == [(False, False), (True, False), (True, True), (True, False)]
