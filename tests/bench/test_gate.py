from __future__ import annotations

from xml.etree import ElementTree

import pytest

from serving.bench.figures import Server
from serving.bench.gate import Judgement, Outcome, Rule, judge, junit, parse_rules, passes
from serving.bench.result import Result
from serving.errors import InvalidArgument
from tests.bench.samples import recording, result, runs

STEADY = [100.0, 101.0, 99.0, 100.0, 100.5, 99.5]


@pytest.mark.parametrize(
    ("text", "figure", "sign", "limit", "relative"),
    [
        ("p99<=20ms", "p99", "<=", 20.0, False),
        ("p99 <= 20", "p99", "<=", 20.0, False),
        ("p99.9<=0.5s", "p999", "<=", 500.0, False),
        ("p99.99<250us", "p9999", "<", 0.25, False),
        ("p99<=1.05x", "p99", "<=", 1.05, True),
        ("throughput>=0.97x", "throughput", ">=", 0.97, True),
        ("throughput > 1000/s", "throughput", ">", 1000.0, False),
        ("errors==0", "errors", "==", 0.0, False),
        ("error_share<0.1%", "error_share", "<", 0.001, False),
        ("memory<=2GiB", "memory", "<=", 2048.0, False),
        ("cpu<=300ms", "cpu", "<=", 0.3, False),
    ],
)
def test_a_rule_is_a_figure_a_sign_and_a_limit(text: str, figure: str, sign: str, limit: float, relative: bool) -> None:
    rule = Rule.parse(text)
    assert (rule.metric.name, rule.sign, rule.limit, rule.relative) == (figure, sign, pytest.approx(limit), relative)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("p99", "is not a rule: expected FIGURE<=NUMBER"),
        ("p99<=fast", "is not a rule"),
        ("p98<=1ms", "there is no figure p98; did you mean p9"),
        ("speed>=1", "there is no figure speed; there are throughput, goodput"),
        ("p99<=1MiB", "p99 has no unit MiB; expected x or one of us, µs, ms, s"),
        ("errors==0ms", "errors has no unit ms"),
    ],
)
def test_a_wrong_rule_says_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        Rule.parse(text)


def test_a_file_may_have_comments_and_empty_lines() -> None:
    assert [rule.text for rule in parse_rules(["# bounds", "", "p99<=20ms  # ours", "errors==0"])] == ["p99<=20ms", "errors==0"]


def outcome(rule: str, after: Result, before: Result | None = None) -> Outcome:
    return judge([Rule.parse(rule)], after, before)[0].outcome


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("errors==2", "passed"),
        ("errors==0", "failed"),
        ("max<=9ms", "passed"),
        ("max<9ms", "failed"),
        ("cpu<=1s", "failed"),
        ("memory<=3", "passed"),
    ],
)
def test_a_bound_on_a_figure_is_judged_by_it(rule: str, expected: Outcome) -> None:
    after = result([recording({"a": [1.0, 9.0]}, errors={"x": 2})], servers=[Server(rss_bytes=3 * 2**20)])
    assert outcome(rule, after) == expected


@pytest.mark.parametrize(
    ("factor", "rule", "expected"),
    [
        (1.0, "throughput>=0.97x", "passed"),
        (0.9, "throughput>=0.97x", "failed"),
        (0.9, "throughput>=0.85x", "passed"),
        (0.5, "p50<=1.05x", "failed"),
        (2.0, "p50<=1.05x", "passed"),
    ],
)
def test_a_bound_on_the_ratio_is_judged_by_the_ratio(factor: float, rule: str, expected: Outcome) -> None:
    before = runs([8 * rate for rate in STEADY])
    after = runs([8 * rate * factor for rate in STEADY], median_ms=5.0 / factor)
    assert outcome(rule, after, before) == expected


def test_noise_leaves_a_rule_undecided_and_strict_takes_that_for_failed() -> None:
    before, after = runs([100, 200, 80, 150]), runs([90, 100, 180, 85])
    (judgement,) = judge(parse_rules(["throughput>=0.97x"]), after, before)
    assert judgement.outcome == "undecided"
    assert passes([judgement])
    assert not passes([judgement], strict=True)


@pytest.mark.parametrize("count", [1, 2])
def test_with_too_few_repetitions_the_ratio_alone_decides(count: int) -> None:
    assert outcome("throughput>=0.97x", runs([90.0] * count), runs([100.0] * count)) == "failed"
    assert outcome("throughput>=0.97x", runs([99.0] * count), runs([100.0] * count)) == "passed"


def test_errors_that_were_not_there_before_break_a_ratio() -> None:
    clean, broken = (result([recording({"a": [1.0] * 99}, errors=errors)]) for errors in ({}, {"x": 1}))
    assert outcome("error_share<=1x", broken, clean) == "failed"
    assert outcome("error_share<=1x", clean, clean) == "passed"
    assert outcome("errors<=1x", broken, clean) == "failed"
    assert outcome("errors<=1x", clean, clean) == "passed"


def test_a_ratio_needs_an_earlier_result() -> None:
    with pytest.raises(InvalidArgument, match=r"'p99<=1.05x' is a bound against an earlier result, and there is none"):
        judge(parse_rules(["errors==0", "p99<=1.05x"]), runs([100]))


def test_what_was_not_measured_fails() -> None:
    (judgement,) = judge(parse_rules(["queue<=2x"]), runs([100]), runs([100]))
    assert (judgement.outcome, judgement.why) == ("failed", "time in the queue was not measured in both results")


JUDGEMENTS = [
    Judgement(Rule.parse("errors==0"), "passed", "errors: 0"),
    Judgement(Rule.parse("p99<=20ms"), "failed", 'p99: 30 ms & "more"'),
    Judgement(Rule.parse("p50<=1.05x"), "undecided", "noise"),
]


@pytest.mark.parametrize(("strict", "counts"), [(False, ("3", "1", "1")), (True, ("3", "2", "0"))])
def test_junit_has_a_case_for_each_rule(strict: bool, counts: tuple[str, str, str]) -> None:
    root = ElementTree.fromstring(junit(JUDGEMENTS, name="after", strict=strict))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == counts
    assert [(case.get("name"), case[0].tag) for case in suite] == [
        ("errors==0", "system-out"), ("p99<=20ms", "failure"), ("p50<=1.05x", "failure" if strict else "skipped"),
    ]  # fmt: skip
    assert suite[1][0].get("message") == 'p99: 30 ms & "more"'
