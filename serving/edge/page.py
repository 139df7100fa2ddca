"""Page: everything that Prometheus is told, as one text.

ours        the sums of all processes, fresh (every process reports before the page is made), and what the keeper knows itself
HAProxy's   where it runs
Triton's    `nv_*`, for dashboards that know a Triton server; `promtool check metrics` does not like their form, so they can be left out
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.edge.collection import Collection
from serving.edge.haproxy_counters import haproxy_metrics
from serving.edge.ledger import Ledger, families
from serving.edge.machine import Machine
from serving.edge.reports import process_samples
from serving.edge.statistics import statistics
from serving.edge.triton import inference_families, text
from serving.errors import Unavailable

OWN = "keeper"
"""The name of the keeper's own report in the ledger."""

AskHAProxy = Callable[[], Awaitable[str]]
"""Returns what `show stat` says, "" where there is no HAProxy. Raises OSError."""


class Page:
    """Belongs to the keeper's loop; the text is made in a thread."""

    def __init__(
        self, ledger: Ledger, collections: tuple[Collection, ...], status: Callable[[], dict[str, Any]], ask_haproxy: AskHAProxy
    ) -> None:
        self._ledger = ledger
        self._collections = collections
        self._status = status
        self._ask_haproxy = ask_haproxy
        self._machine = Machine()

    async def text(self, triton: bool = True) -> bytes:
        """Return the page; `triton` says whether it has the names of Triton."""
        stat, *_ = await asyncio.gather(self._haproxy(), *map(_collected, self._collections))
        self._ledger.identify(OWN, OWN)
        self._ledger.record(OWN, process_samples("edge"))
        totals = self._ledger.totals()
        own = list(_own(self._status()))

        def make() -> bytes:
            ours = generate_latest(_Families([*families(totals), *own, *(haproxy_metrics(stat) if stat else ())]))
            if not triton:
                return ours
            return ours + text(inference_families(totals, statistics(totals))) + text(self._machine.families())

        return await asyncio.to_thread(make)

    async def _haproxy(self) -> str:
        try:
            return await self._ask_haproxy()
        except OSError:
            return ""  # it may be just being restarted


async def _collected(collection: Collection) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    try:
        collection.ask(tell)
    except Unavailable:
        return  # the last reports are a second old at most
    await done


class _Families(Collector):
    """What `generate_latest` takes for a registry."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        return self._found


def _own(status: dict[str, Any]) -> Iterator[Metric]:
    """Yield what the keeper knows itself."""
    yield GaugeMetricFamily("serving_edge_gateways", "gateways that hold a slot", len(status["gateways"]))
    draining = sum(gateway["draining"] for gateway in status["gateways"])
    yield GaugeMetricFamily("serving_edge_gateways_draining", "of these, gateways that take no new traffic", draining)
    haproxy = status["haproxy"]
    yield GaugeMetricFamily("serving_edge_up", "1 while HAProxy runs", int(bool(haproxy and haproxy["pid"])))
    yield CounterMetricFamily("serving_edge_restarts", "times that HAProxy had to be started again", haproxy["restarts"] if haproxy else 0)
