"""Load: the requests of one version at one urgency that a gateway has under way, and what their answers say about waiting.

Pure: times are passed in. Two things are learned, both forgotten soon, so that an end of the overload is noticed at once:

forecast   A request that waited longer than its batch ran, and for some ms at least, stood in a queue. The next one waits as long,
           more or less in proportion to the number of ours that are ahead of it now and then: those of other gateways come and go
           likewise. It never waits more than by the time that the replicas report for each request, as if MOST_GATEWAYS gateways
           had so many more. Nothing is forecast when an answer comes that had nobody ahead and no queue, nor for a request that
           finds nobody ahead: that one is the probe which ends a wrong forecast.
cap        A replica's queue is full with what we have there: more is refused here, at no cost to it, until CAP_S is over.

The number ahead times the reported time per request alone is not enough: it knows nothing of other gateways, and after a calm time
it is the time of batches of one.
"""

from __future__ import annotations

URGENT, NORMAL, PATIENT = 0, 1, 2
RANKS = tuple(NORMAL if p in (0, 128) else URGENT if p < 128 else PATIENT for p in range(256))
"""Rank of a request by its priority."""

SHARES = (32, 8, 2)
"""By rank: what a version may hold, in multiples of what is free (`admission.py`)."""
NO_CAP = 1 << 62
QUEUED_US = 5_000
"""A shorter wait is no queue: nothing is learned from it, and what was learned is forgotten."""
CAP_S = 0.1
MOST_GATEWAYS = 8
"""Bounds a forecast from a wait that was no queue: a batch that waits for company (`max_delay_ms`)."""
FORGET_S = 0.25
"""A forecast is good for this time, or for as long as the answer took that it comes from."""


class Load:
    """Counts, forecast and cap. Times in seconds on one clock."""

    __slots__ = ("_ahead", "_each_s", "_took_s", "_until", "_waited_s", "cap", "nbytes", "requests", "seen", "share")

    def __init__(self, rank: int) -> None:
        self.share = SHARES[rank]
        self.requests = 0
        self.nbytes = 0
        self.cap = NO_CAP
        """Requests at which a replica has said that its queue is full."""
        self.seen = 0.0
        """When the forecast was made; 0.0: there is none."""
        self._until = 0.0
        self._ahead = 0
        self._took_s = 0.0
        self._waited_s = 0.0
        self._each_s = 0.0

    def waited(self, ahead: int, took_s: float, waited_s: float, each_s: float, now: float) -> None:
        """Learn from a request that stood in a queue, or one that did not while there is a forecast.

        ahead     requests of this load that were under way when it came
        took_s    from its coming to its answer; `waited_s` of it in the queue
        each_s    what one request more costs, by the time and the rows of its batch and the number of replicas
        """
        self.seen = now
        self._ahead = ahead
        self._took_s = took_s
        self._waited_s = waited_s
        self._each_s = each_s

    def full(self, now: float) -> None:
        """Learn that a replica's queue has no room for a request of this load beyond those that are under way."""
        self.cap = max(1, self.requests)
        self._until = now + CAP_S

    def capped(self, now: float) -> bool:
        """Say whether a request is to be refused because the queue of the replicas is full."""
        if self.requests < self.cap:
            return False
        if now >= self._until:
            self.cap = NO_CAP
            return False
        return True

    def forecast(self, now: float) -> tuple[float, float]:
        """Return (time to the answer, time in the queue) of a request that comes now; zeros where nothing is known.

        The answer is taken to come a batch later than it would on the average: a queue that is held at the very deadline
        has half of its answers too late, and goodput falls to half (tests/gateway/test_overload.py).
        """
        requests = self.requests
        if not requests or not self.seen or now - self.seen > max(FORGET_S, self._took_s):
            return 0.0, 0.0
        waited_s = self._waited_s
        more = requests - self._ahead
        more_s = more * waited_s / (self._ahead + 1)
        waits_s = waited_s + min(more_s, more * self._each_s * MOST_GATEWAYS) if more > 0 else waited_s + more_s
        return waits_s + 2.0 * (self._took_s - waited_s), waits_s

    def __repr__(self) -> str:
        return f"Load({self.requests} requests, {self.nbytes} bytes)"


Loads = tuple[Load, Load, Load]
"""Of one version, by rank."""


def new_loads() -> Loads:
    """Return the loads of a version that has nothing under way."""
    return Load(URGENT), Load(NORMAL), Load(PATIENT)
