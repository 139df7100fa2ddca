"""Bodies of the statistics extension: GET v2/models/M/stats and ModelStatistics.

Clients want every member of a duration, as unsigned numbers (perf_analyzer stops where one is missing). Copying in and out of the model
is part of `compute_infer`, because it is one with the model's run, so `compute_input` and `compute_output` have counts and no time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from serving.protocol.schema import ModelStatisticsResponse
from serving.statistics import Sum, VersionStatistics


class ModelStatistics(NamedTuple):
    """What was counted of one version of a model."""

    model: str
    version: str
    counted: VersionStatistics


def not_available(model: str, version: str = "") -> str:
    """Return the text for a model, or a version of it, that is not served."""
    return f"requested model '{model}'{f' version {version}' if version else ''} is not available"


def to_json(found: Iterable[ModelStatistics]) -> bytes:
    """Return the body of GET v2/models[/M[/versions/V]]/stats."""
    return orjson.dumps({"model_stats": [_plain(*one) for one in found]})


def to_message(found: Iterable[ModelStatistics]) -> bytes:
    """Return a ModelStatisticsResponse."""
    answer = ModelStatisticsResponse()
    for one in found:
        plain = _plain(*one)
        answer.model_stats.add(
            name=one.model,
            version=one.version,
            **{name: plain[name] for name in ("last_inference", "inference_count", "execution_count")},
            inference_stats=plain["inference_stats"],
            batch_stats=plain["batch_stats"],
        )
    return bytes(answer.SerializeToString())


def _plain(model: str, version: str, counted: VersionStatistics) -> dict[str, Any]:
    answers = counted.success.times
    return {
        "name": model,
        "version": version,
        "last_inference": counted.last_ms,
        "inference_count": counted.rows,
        "execution_count": counted.executions,
        "inference_stats": {
            "success": _duration(counted.success),
            "fail": _duration(counted.fail),
            "queue": _duration(counted.queue),
            "compute_input": _duration(Sum(answers)),
            "compute_infer": _duration(counted.compute),
            "compute_output": _duration(Sum(answers)),
            "cache_hit": _duration(Sum()),
            "cache_miss": _duration(Sum()),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": batches.size,
                "compute_input": _duration(Sum(batches.times)),
                "compute_infer": _duration(Sum(batches.times, batches.ns)),
                "compute_output": _duration(Sum(batches.times)),
            }
            for batches in counted.batches
        ],
        "memory_usage": [],
    }


def _duration(value: Sum) -> dict[str, int]:
    return {"count": value.times, "ns": value.ns}
