"""What a replica has counted, as samples of the metrics page ("Metrics" in serving/README.md)."""

from __future__ import annotations

from typing import Any

from serving.batching.reception import Reception

WAIT_OCTAVES = 27
"""1 µs to 134 s."""
ROWS_OCTAVES = 12
"""1 to 4096 rows."""


def samples(key: str, batcher: Reception) -> list[list[Any]]:
    """Return those of one version, "model/version". A request that waits or runs is `open`, one that waits is `queued`."""
    model, _, version = key.partition("/")
    labels = {"model": model, "version": version}
    counts, spread = batcher.counts, batcher.spread
    queued, queued_bytes = batcher.queued
    ended = {
        "answered": counts.answered,
        "failed": counts.failed,
        "refused": counts.refused,
        "expired": counts.expired,
        "cancelled": counts.cancelled,
    }
    return [
        ["serving_queue_duration_seconds", "histogram", labels, {**spread.waits_us.to_json(WAIT_OCTAVES, 1e-6), "sum": counts.queue_s}],
        ["serving_compute_duration_seconds", "histogram", labels, {**spread.runs_us.to_json(WAIT_OCTAVES, 1e-6), "sum": counts.compute_s}],
        ["serving_batch_rows", "histogram", labels, {**spread.rows_less_one.to_json(ROWS_OCTAVES), "sum": counts.rows}],
        *(["serving_replica_requests_total", "counter", {**labels, "outcome": name}, n] for name, n in ended.items()),
        ["serving_replica_alone_total", "counter", labels, counts.alone],
        ["serving_replica_nan_rows_total", "counter", labels, counts.nan_rows],
        ["serving_queue_requests", "gauge", labels, queued],
        ["serving_queue_bytes", "gauge", labels, queued_bytes],
        ["serving_open_requests", "gauge", labels, batcher.open],
    ]
