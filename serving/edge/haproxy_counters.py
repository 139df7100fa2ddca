"""HAProxy's own counters, from the CSV of its admin socket's `show stat`, as metrics."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO

from prometheus_client.core import Metric

_PREFIX = "serving_edge_haproxy_"
_NUMBERS = (
    ("scur", "sessions", "gauge", "sessions that are open"),
    ("stot", "sessions_opened", "counter", "sessions that were opened"),
    ("bin", "received_bytes", "counter", "bytes that came from clients"),
    ("bout", "sent_bytes", "counter", "bytes that went to clients"),
    ("qcur", "queue_requests", "gauge", "requests that wait for a gateway"),
    ("ereq", "request_errors", "counter", "requests that were none, or whose client went away"),
    ("econ", "connection_errors", "counter", "connections to gateways that failed"),
    ("eresp", "response_errors", "counter", "answers of gateways that were none or ended too soon"),
    ("wretr", "retries", "counter", "connections to gateways that were tried again"),
    ("wredis", "redispatches", "counter", "requests that went to another gateway"),
)
"""(column, name, kind, help)"""
_CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")


def haproxy_metrics(stat: str) -> Iterator[Metric]:
    """Yield the metrics of what `show stat` says. Labels: proxy, and server: a slot, FRONTEND or BACKEND."""
    rows = [row for row in csv.DictReader(StringIO(stat.lstrip("# "))) if row.get("pxname")]
    for column, name, kind, text in _NUMBERS:
        family = Metric(_PREFIX + name, f"HAProxy: {text}", kind)
        for row in rows:
            if row.get(column):
                family.add_sample(_PREFIX + name + ("_total" if kind == "counter" else ""), _labels(row), float(row[column]))
        yield family
    responses = Metric(f"{_PREFIX}responses", "HAProxy: answers by the class of their status", "counter")
    up = Metric(f"{_PREFIX}up", "HAProxy: 1 where it takes or sends traffic", "gauge")
    for row in rows:
        up.add_sample(up.name, _labels(row), float(row["status"].startswith(("UP", "OPEN"))))
        for code in _CODES:
            if count := row.get(f"hrsp_{code}"):
                responses.add_sample(f"{responses.name}_total", {**_labels(row), "code": code}, float(count))
    yield responses
    yield up


def _labels(row: dict[str, str]) -> dict[str, str]:
    return {"proxy": row["pxname"], "server": row["svname"]}
