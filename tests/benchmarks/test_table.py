from __future__ import annotations

import pytest

from benchmarks import table

MACHINE = {"processor": "a processor", "cores": 2, "memory_gib": 24, "python": "3.11.7"}


def runs(row: str, measure: str, ours: list[float], against: str, theirs: list[float]) -> table.Runs:
    return {row: {"engine": [{measure: v} for v in ours], against: [{measure: v} for v in theirs]}}


@pytest.mark.parametrize(
    ("row", "measure", "ours", "against", "theirs", "ratio", "passed"),
    [
        ("mlp-rest", "per_s", [9000, 90000, 92000], "triton", [30000, 20000, 31000], 3.0, True),  # medians, not means
        ("mlp-rest", "per_s", [89000], "triton", [30000], 89 / 30, False),
        ("mlp-rest-1", "p50_ms", [0.13], "triton", [0.2], 0.65, True),
        ("mlp-rest-1", "p50_ms", [0.15], "triton", [0.2], 0.75, False),
        ("echo-rest", "cpu_s_per_1000", [0.03], "triton", [0.05], 0.6, False),
        ("idle", "cpu_cores", [0.15], "ray-empty", [0.1], 0.05, True),
        ("idle", "cpu_cores", [0.17], "ray-empty", [0.1], 0.07, False),
    ],
)
def test_verdict_compares_medians_with_the_floor(
    row: str, measure: str, ours: list[float], against: str, theirs: list[float], ratio: float, passed: bool
) -> None:
    (verdict,) = table.verdicts(runs(row, measure, ours, against, theirs))
    assert verdict.ratio == pytest.approx(ratio)
    assert verdict.passed is passed


def test_rounds_in_pairs_give_an_interval() -> None:
    (verdict,) = table.verdicts(runs("mlp-rest", "per_s", [30000, 60000, 90000], "triton", [10000, 20000, 30000]))
    assert verdict.interval == pytest.approx((3, 3))  # every round alike, however far apart the rounds are
    assert table.cells(verdict)[6] == "3.00 to 3.00"
    (verdict,) = table.verdicts(runs("mlp-rest", "per_s", [30000], "triton", [10000]))
    assert (verdict.interval, table.cells(verdict)[6]) == (None, "–")


def test_two_replicas_are_judged_by_the_variant() -> None:
    found = {"resnet-two": {"engine-two": [{"per_s": 90.0}], "bare-two": [{"per_s": 100.0}]}}
    (verdict,) = table.verdicts(found)
    assert (verdict.ratio, verdict.passed) == (0.9, True)


def test_a_floor_with_one_side_is_left_out() -> None:
    assert list(table.verdicts({"mlp-rest": {"engine": [{"per_s": 1.0}]}})) == []
    assert list(table.verdicts({"mlp-rest": {"triton": [{"per_s": 1.0}]}})) == []


def test_every_floor_belongs_to_a_measured_pair() -> None:
    systems = {row.key: row.systems for row in table.ROWS} | {table.IDLE: ("engine", "ray-empty")}
    for floor in table.FLOORS:
        assert floor.against in systems[floor.row]
        assert {"engine", "engine-two"} & set(systems[floor.row])
    assert {name for names in systems.values() for name in names} == table.SYSTEMS.keys()


def test_markdown_shows_floors_and_all_systems() -> None:
    found = {"mlp-rest": {"engine": [{"per_s": 90000.0, "p50_ms": 0.5, "p99_ms": 1.25, "errors": 2}], "triton": [{"per_s": 20000.0}]}}
    text = table.markdown(found, MACHINE, "2026-01-02", 3)
    wanted = "| mlp, REST binary, 64 connections | answers a second | 90,000 | Triton, Python backend | 20,000 | 4.50 | – | at least 3 |"
    assert wanted in text
    assert "| mlp, REST binary, 64 connections | this engine | 90,000 | 0.50 | 1.25 | – | – | 2 |" in text
    assert "medians of 3 interleaved rounds" in text
