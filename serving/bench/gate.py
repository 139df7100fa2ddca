"""Rules that a result has to keep: `p99<=20ms`, `errors==0`, and against an earlier one `p99<=1.05x`, `throughput>=0.97x`.

A bound on the figure itself is judged by the figure. A bound on the ratio to an earlier result fails where the ratio breaks it and
its interval says that there is a change at all; where noise explains the ratio as well, the rule is undecided, which a strict gate takes
for failed. With fewer than three repetitions there is no interval to speak of, and the ratio alone decides.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from serving.bench.compare import FEWEST, Change, Comparison, compare
from serving.bench.metric import METRICS, Metric
from serving.bench.result import Result
from serving.errors import InvalidArgument

Outcome = Literal["passed", "failed", "undecided"]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq,
}  # fmt: skip
_RULE = re.compile(r"(?P<name>[a-z_0-9.]+)\s*(?P<sign><=|>=|==|<|>)\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>[a-zA-Zµ%/]*)")
_UNITS: dict[str, dict[str, float]] = {  # the metric's own unit → unit of a rule → factor
    "ms": {"": 1, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3},
    "/s": {"": 1, "/s": 1, "rps": 1},
    "s": {"": 1, "s": 1, "ms": 1e-3},
    "MiB": {"": 1, "MiB": 1, "GiB": 1024},
    "": {"": 1, "%": 0.01},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One bound. `relative`: on the ratio to the earlier result; else on the figure, in the metric's unit."""

    text: str
    metric: Metric
    sign: str
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule of a text such as 'p99 <= 1.05x'. Raises InvalidArgument that says what would be right."""
        match = _RULE.fullmatch(text.strip())
        if not match:
            raise InvalidArgument(f"'{text}' is not a rule: expected FIGURE<=NUMBER[UNIT], as in p99<=20ms, p99<=1.05x or errors==0")
        name, unit = match["name"].replace("p99.99", "p9999").replace("p99.9", "p999"), match["unit"]
        metric = METRICS.get(name)
        if metric is None:
            near = difflib.get_close_matches(name, METRICS, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(METRICS)}"
            raise InvalidArgument(f"'{text}': there is no figure {name}; {meant}")
        if unit == "x":
            return cls(text.strip(), metric, match["sign"], float(match["number"]), relative=True)
        factors = _UNITS[metric.unit]
        if unit not in factors:
            raise InvalidArgument(f"'{text}': {name} has no unit {unit}; expected x or one of {', '.join(filter(None, factors)) or 'none'}")
        return cls(text.strip(), metric, match["sign"], float(match["number"]) * factors[unit], relative=False)

    def holds(self, value: float) -> bool:
        return _COMPARE[self.sign](value, self.limit)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a rule, and why."""

    rule: Rule
    outcome: Outcome
    why: str


def parse_rules(texts: Iterable[str]) -> list[Rule]:
    """Return the rules of some lines; empty ones and what stands behind a # are left out. Raises InvalidArgument."""
    return [Rule.parse(bare) for text in texts if (bare := text.split("#")[0].strip())]


def judge(rules: Sequence[Rule], after: Result, before: Result | None = None) -> list[Judgement]:
    """Return what became of each rule. Raises InvalidArgument where a relative rule has no earlier result to go by."""
    relative = [rule for rule in rules if rule.relative]
    if relative and before is None:
        raise InvalidArgument(f"'{relative[0].text}' is a bound against an earlier result, and there is none")
    comparison = compare(before, after, names=[rule.metric.name for rule in relative]) if before else None
    return [_relative(rule, comparison) if comparison and rule.relative else _absolute(rule, after) for rule in rules]


def passes(judgements: Iterable[Judgement], *, strict: bool = False) -> bool:
    """True where no rule failed (strict: and none is undecided)."""
    return all(one.outcome == "passed" or (one.outcome == "undecided" and not strict) for one in judgements)


def junit(judgements: Sequence[Judgement], *, name: str, strict: bool = False) -> str:
    """Return the judgements as a JUnit document: a rule is a test; an undecided one is skipped, or failed where strict."""
    failed = sum(not passes([one], strict=strict) for one in judgements)
    skipped = sum(one.outcome == "undecided" and not strict for one in judgements)
    numbers = {"tests": str(len(judgements)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **numbers})
    for one in judgements:
        case = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": one.rule.text, "time": "0"})
        if not passes([one], strict=strict):
            ElementTree.SubElement(case, "failure", {"message": one.why, "type": one.outcome})
        elif one.outcome == "undecided":
            ElementTree.SubElement(case, "skipped", {"message": one.why})
        else:
            ElementTree.SubElement(case, "system-out").text = one.why
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _absolute(rule: Rule, after: Result) -> Judgement:
    value = rule.metric.of(after)
    if value is None:
        return Judgement(rule, "failed", f"{rule.metric.title} was not measured")
    return Judgement(rule, "passed" if rule.holds(value) else "failed", f"{rule.metric.title}: {rule.metric.text(value)}")


def _relative(rule: Rule, comparison: Comparison) -> Judgement:
    change = next((change for change in comparison.changes if change.metric is rule.metric), None)
    if change is None:
        return Judgement(rule, "failed", f"{rule.metric.title} was not measured in both results")
    ratio = _ratio(change)
    if ratio is None:
        return Judgement(rule, "failed", f"{rule.metric.title} went from 0 to {rule.metric.text(change.after)}: there is no ratio")
    values = f"{rule.metric.text(change.before)} before, {rule.metric.text(change.after)} after"
    known = change.low is not None and comparison.count >= FEWEST and rule.metric.name != "error_share"
    interval = f", 95 % {change.low:.3f} to {change.high:.3f}" if known else ""
    why = f"{rule.metric.title}: {ratio:.3f}x{interval} ({values})"
    if rule.holds(ratio):
        return Judgement(rule, "passed", why)
    return Judgement(rule, "undecided" if known and not change.sure else "failed", why)


def _ratio(change: Change) -> float | None:
    if change.metric.name != "error_share" and change.ratio is not None:
        return change.ratio
    before, after = change.before or 0.0, change.after or 0.0
    if before == after:
        return 1.0
    return after / before if before else None
