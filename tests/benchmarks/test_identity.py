"""What becomes of the requests of a generator, in words that add up."""

from __future__ import annotations

from typing import Any

from benchmarks.identity import Client, judged

PATIENT, IMPATIENT = Client("a", 1.0, 8, ()), Client("b", 1.0, 8, (), impatient=True)


def result(answers: int, **errors: int) -> dict[str, Any]:
    return {
        "answers": answers,
        "errors": sum(errors.values()),
        "errors_by_kind": {kind.replace("_", " "): {"count": count, "texts": [kind]} for kind, count in errors.items()},
    }


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {name: found[name] for name in ("wrong", "given_up", "failed", "may_fail", "lost")}


def test_what_fails_is_held_against_the_gateways_that_were_killed() -> None:
    found = judged(PATIENT, 100, result(95, grpc_UNAVAILABLE=4, timeout=1), 2)
    assert counts(found) == {"wrong": 0, "given_up": 0, "failed": 5, "may_fail": 16, "lost": 0}
    assert found["errors"]["timeout"] == {"count": 1, "texts": ["timeout"]}


def test_who_does_not_wait_has_given_up_and_not_failed() -> None:
    assert counts(judged(IMPATIENT, 100, result(40, timeout=50, connect_timeout=9, connection_lost=1), 0)) == {
        "wrong": 0, "given_up": 59, "failed": 1, "may_fail": 0, "lost": 0,
    }  # fmt: skip


def test_wrong_and_lost_answers_are_told() -> None:
    assert counts(judged(PATIENT, 100, result(95, wrong_body=3), 0)) == {"wrong": 3, "given_up": 0, "failed": 0, "may_fail": 0, "lost": 2}
