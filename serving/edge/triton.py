"""Triton's names for what the engine counts: dashboards and tools that know a Triton server find what they look for.

Their form is Triton's too (counters without `_total`, microseconds), which is why `promtool check metrics` has words about them and the
page can be had without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from serving.edge.ledger import Report
from serving.statistics import VersionStatistics

Version = tuple[str, str]

_FROM_STATISTICS: tuple[tuple[str, str, Callable[[VersionStatistics], int]], ...] = (
    ("request_success", "Number of successful inference requests, all batch sizes", lambda s: s.success.times),
    ("count", "Number of inferences performed", lambda s: s.rows),
    ("exec_count", "Number of model executions performed", lambda s: s.executions),
    ("request_duration_us", "Cumulative inference request duration in microseconds", lambda s: s.success.ns // 1000),
    ("queue_duration_us", "Cumulative inference queuing duration in microseconds", lambda s: s.queue.ns // 1000),
    ("compute_input_duration_us", "Cumulative compute input duration in microseconds; part of compute_infer here", lambda s: 0),
    ("compute_infer_duration_us", "Cumulative compute inference duration in microseconds", lambda s: s.compute.ns // 1000),
    ("compute_output_duration_us", "Cumulative compute output duration in microseconds; part of compute_infer here", lambda s: 0),
)
"""(what follows nv_inference_, help, how it is read)"""
_REASONS = {"cancelled": "CANCELED", "model_failed": "BACKEND"}
_REJECTED = {"queue_full", "queue_timeout", "too_many_requests", "unavailable"}


@dataclass(slots=True)
class Family:
    """One metric as text. `samples`: labels and value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n"
        for labels, value in self.samples:
            told = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
            yield f"{self.name}{{{told}}} {value:.10g}\n" if told else f"{self.name} {value:.10g}\n"


def text(families: Iterable[Family]) -> bytes:
    """Return the families in Prometheus's text form; those without a sample are left out."""
    return "".join(line for family in families if family.samples for line in family.lines()).encode()


def inference_families(totals: Report, counted: Mapping[Version, VersionStatistics]) -> Iterator[Family]:
    """Yield `nv_inference_*` of every version. Labels: model, version."""
    for name, words, read in _FROM_STATISTICS:
        yield Family(f"nv_inference_{name}", "counter", words, [(_labels(version), read(value)) for version, value in counted.items()])
    failures: dict[tuple[Version, str], float] = {}
    pending: dict[Version, float] = {}
    for (_, name, labels), value in totals.items():
        known = dict(labels)
        version = (known.get("model", ""), known.get("version", ""))
        if name == "serving_queue_requests" and isinstance(value, float):
            pending[version] = pending.get(version, 0) + value
        reason = _reason(name, known)
        if reason and isinstance(value, float):
            failures[version, reason] = failures.get((version, reason), 0) + value
    failed = Family("nv_inference_request_failure", "counter", "Number of failed inference requests, all batch sizes")
    failed.samples = [({**_labels(version), "reason": reason}, n) for (version, reason), n in sorted(failures.items())]
    yield failed
    waiting = Family("nv_inference_pending_request_count", "gauge", "Number of requests that await execution")
    waiting.samples = [(_labels(version), n) for version, n in sorted(pending.items())]
    yield waiting


def _reason(name: str, labels: Mapping[str, str]) -> str:
    """Return Triton's reason for a failure; "" where the sample counts none."""
    if name == "serving_rejected_total":
        return "REJECTED"
    outcome = labels.get("outcome", "ok")
    if name != "serving_requests_total" or outcome == "ok":
        return ""
    return "REJECTED" if outcome in _REJECTED else _REASONS.get(outcome, "OTHER")


def _labels(version: Version) -> dict[str, str]:
    return {"model": version[0], "version": version[1]}


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
