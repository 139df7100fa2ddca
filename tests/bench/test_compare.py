from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.compare import Verdict, compare, judge
from serving.bench.interleave import interleave
from serving.bench.metric import METRICS
from tests.bench.samples import LOAD, recording, result, runs

NOISE = (1.0, 1.02, 0.97, 1.01, 0.99, 1.03, 0.98, 1.0)
LATENCY, THROUGHPUT = METRICS["p99"], METRICS["throughput"]


def verdicts(before: list[float], after: list[float], *, interleaved: str | None = None, threshold: float = 0.03) -> dict[str, Verdict]:
    comparison = compare(runs(before, interleaved=interleaved), runs(after, interleaved=interleaved), threshold=threshold)
    return {change.metric.name: change.verdict for change in comparison.changes}


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict"),
    [
        (1.20, 1.10, 1.30, "worse"),
        (0.80, 0.70, 0.90, "better"),
        (1.00, 0.98, 1.02, "same"),
        (1.20, 0.90, 1.50, "undecided"),  # noise
        (1.02, 1.01, 1.04, "undecided"),  # there, but perhaps too small to matter
        (1.02, 1.01, 1.025, "same"),  # there, and surely too small
        (1.04, 1.01, 1.07, "worse"),
    ],
)
def test_a_verdict_needs_a_change_that_is_there_and_matters(ratio: float, low: float, high: float, verdict: Verdict) -> None:
    assert judge(LATENCY, ratio, low, high, 0.03) == verdict


@given(st.tuples(*[st.floats(0.2, 5)] * 3), st.floats(0, 0.5))
def test_more_throughput_is_judged_as_less_latency_is(values: tuple[float, float, float], threshold: float) -> None:
    low, ratio, high = sorted(values)
    assert judge(THROUGHPUT, ratio, low, high, threshold) == judge(LATENCY, 1 / ratio, 1 / high, 1 / low, threshold)


def test_twice_the_rate_is_better_and_half_of_it_worse() -> None:
    slow, fast = [100 * noise for noise in NOISE], [200 * noise for noise in NOISE]
    assert verdicts(slow, fast)["throughput"] == "better"
    assert verdicts(fast, slow)["throughput"] == "worse"


def test_the_same_runs_are_the_same() -> None:
    rates = [400 * noise for noise in NOISE]
    assert set(verdicts(rates, rates, interleaved="x").values()) == {"same"}


def test_turns_see_what_two_samples_cannot() -> None:
    drift = [1.0, 1.4, 1.9, 1.2, 2.2, 1.6]
    before, after = [100 * one for one in drift], [110 * one for one in drift]
    assert verdicts(before, after, interleaved="x")["throughput"] == "better"
    assert verdicts(before, after)["throughput"] == "undecided"


def test_one_run_a_side_has_ratios_and_no_verdict() -> None:
    comparison = compare(runs([100]), runs([200]))
    change = next(change for change in comparison.changes if change.metric is THROUGHPUT)
    assert (change.ratio, change.low, change.verdict, change.why) == (2.0, None, "undecided", "one run on a side")
    assert comparison.method == "single"
    assert comparison.basis.startswith("one run on a side: no interval")


def test_other_numbers_of_repetitions_are_no_pairs() -> None:
    assert compare(runs([100] * 4, interleaved="x"), runs([100] * 3, interleaved="x")).method == "samples"
    assert compare(runs([100] * 3, interleaved="x"), runs([100] * 3, interleaved="x")).method == "pairs"
    assert compare(runs([100] * 3, interleaved="x"), runs([100] * 3, interleaved="y")).method == "samples"


@pytest.mark.parametrize(
    ("before", "after", "verdict"), [(0, 0, "same"), (0, 40, "worse"), (40, 0, "better"), (5, 6, "undecided"), (0, 1, "undecided")]
)
def test_errors_are_compared_as_shares(before: int, after: int, verdict: Verdict) -> None:
    sides = [result([recording({"a": [1.0] * 400}, errors={"x": count})]) for count in (before, after)]
    assert compare(*sides, names=["error_share"]).changes[0].verdict == verdict


def test_a_figure_that_one_side_lacks_is_left_out_and_zero_has_no_ratio() -> None:
    comparison = compare(runs([100] * 3, slo_ms=0.001), runs([100] * 3, slo_ms=50.0), names=["goodput", "cpu"])
    assert [(change.metric.name, change.ratio, change.verdict) for change in comparison.changes] == [("goodput", None, "undecided")]
    both = compare(runs([100] * 3, slo_ms=0.001), runs([100] * 3, slo_ms=0.001), names=["goodput"])
    assert both.changes[0].verdict == "same"


def test_what_else_differs_is_said() -> None:
    other = runs([100], load=LOAD.model_copy(update={"concurrency": 32}))
    busy = result([recording({"a": [1.0]}, client_busy=0.97)])
    assert compare(runs([100]), other).differences == ("load: 16 at a time before, 32 at a time after",)
    assert compare(busy, runs([100])).differences == ("before: the generator may have been the bottleneck",)


def test_the_summary_says_what_is_worse_first() -> None:
    comparison = compare(runs([100] * 5, interleaved="x"), runs([50] * 5, interleaved="x"), names=["throughput", "error_share"])
    assert comparison.summary == "worse: throughput · same: error share"


def test_turns_change_the_side_that_goes_first() -> None:
    order: list[str] = []
    said: list[tuple[str, int]] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    a, b = interleave(lambda: side("A"), lambda: side("B"), 3, said=lambda name, pair: said.append((name, pair)))
    assert order == list("ABBAAB")
    assert (a, b) == ([1, 4, 5], [2, 3, 6])
    assert said == [("A", 0), ("B", 0), ("B", 1), ("A", 1), ("A", 2), ("B", 2)]


@pytest.mark.parametrize(("after", "pairs"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_a_half_pair_is_left_out_when_it_is_stopped(after: int, pairs: int) -> None:
    done: list[str] = []
    a, b = interleave(lambda: done.append("A"), lambda: done.append("B"), 9, stopped=lambda: len(done) >= after)
    assert len(a) == len(b) == pairs


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pairs"):
        interleave(lambda: 1, lambda: 2, 0)
