"""A route that shares out what belongs together: each sequence stays with one version."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

from serving.gateway.chooser import Chooser
from serving.protocol.parameters import ParameterReader
from serving.routing import Route, Share, Traffic

ROUTE = Route("m", "1", ("1", "2"), traffic=Traffic(split=(Share("1", 5000), Share("2", 5000))))


def chooser(sequences: bool) -> Chooser:
    made = Chooser(ROUTE, ParameterReader())
    versions: Any = {f"m/{v}": SimpleNamespace(version=v, ready=True, sequences=sequences) for v in ("1", "2")}
    made.settle(versions)
    return made


def pick(chooser: Chooser, parameters: dict[str, Any]) -> str:
    head: Any = SimpleNamespace(headers={}, choice=None, inference_header_length=None)
    asker: Any = SimpleNamespace(head=head, address=b"")
    served = chooser.pick(asker, json.dumps({"parameters": parameters}).encode())
    assert served is not None
    return served.version


def test_a_sequence_goes_to_the_same_version_on_every_gateway() -> None:
    here, there = chooser(True), chooser(True)
    found = {id: pick(here, {"sequence_id": id}) for id in (*range(1, 400), "text")}
    assert found == {id: pick(there, {"sequence_id": id, "sequence_end": True}) for id in found}
    assert 150 < Counter(found.values())["1"] < 250


def test_requests_without_a_sequence_take_turns() -> None:
    assert Counter(pick(chooser(False), {"sequence_id": 7}) for _ in range(200)).keys() == {"1", "2"}
    one = chooser(True)
    assert 90 < Counter(pick(one, {}) for _ in range(200))["1"] < 110
