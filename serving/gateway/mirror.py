"""Mirror: copies of an endpoint's requests to versions on trial. Nobody waits for them, and what they answer is counted and dropped.

A copy leaves in a later turn of the loop than the request itself, as the most patient of all (`load.py`), and only while the gateway is
half empty and the shadow's budget has room: else it is not made. Its counts are those of its version under the protocol "shadow"; copies
that were not made are counted as refused there, "shadow_budget" or "shadow_inputs" (other inputs than the version that answers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from random import random
from time import monotonic
from typing import Any, Protocol

from serving.errors import ServingError
from serving.gateway.admission import Admission
from serving.gateway.call import Call, Owner, Served, StreamCall
from serving.inference import InferRequest, InferResponse, Layout, SequenceRequest
from serving.routing import POINTS, Route, Shadow

SHADOW_S = 30.0
"""A copy that takes longer is given up."""
PATIENT_PRIORITY = 255
MAX_LAYOUTS = 256


class Sends(Protocol):
    """The calls under way, as far as copies need them."""

    admission: Admission

    def submit(self, served: Served, request: InferRequest, owner: Owner, plan: object, protocol: str) -> Any: ...


class Mirror:
    """The shadows of one route."""

    __slots__ = ("_shadows", "route")

    def __init__(self, route: Route, calls: Sends, loop: asyncio.AbstractEventLoop) -> None:
        self.route = route
        self._shadows = [_Copies(shadow, calls, loop) for shadow in route.traffic.shadows if shadow.points]

    def settle(self, served: Mapping[str, Served]) -> None:
        """Take the versions that there are, by version key."""
        for shadow in self._shadows:
            shadow.settle(served.get(f"{self.route.endpoint}/{shadow.version}"))

    def take(self, served: Served, request: InferRequest) -> None:
        """A request is on its way to `served`: copy it where that is its turn. Sends nothing before the next turn of the loop."""
        for shadow in self._shadows:
            if random() * POINTS < shadow.points:
                shadow.take(served, request)


class _Copies:
    """One shadow. Owner of the calls that are copies."""

    __slots__ = (
        "_calls",
        "_fits",
        "_inflight",
        "_inflight_bytes",
        "_layouts",
        "_loop",
        "_shadow",
        "_target",
        "_waiting",
        "points",
        "version",
    )

    def __init__(self, shadow: Shadow, calls: Sends, loop: asyncio.AbstractEventLoop) -> None:
        self.version = shadow.version
        self.points = shadow.points
        self._shadow = shadow
        self._calls = calls
        self._loop = loop
        self._target: Served | None = None
        self._fits: dict[str, bool] = {}
        self._layouts: dict[int, tuple[Layout, Layout]] = {}
        self._waiting: list[InferRequest] = []
        self._inflight = 0
        self._inflight_bytes = 0

    def settle(self, target: Served | None) -> None:
        self._target = target
        self._fits.clear()
        self._layouts.clear()

    def take(self, served: Served, request: InferRequest) -> None:
        target = self._target
        if target is None or not target.ready or served.version == self.version:
            return
        shadow = self._shadow
        nbytes = request.layout.payload_bytes
        if (
            self._inflight >= shadow.max_inflight_requests
            or self._inflight_bytes + nbytes > shadow.max_inflight_bytes
            or not self._calls.admission.calm
        ):
            target.tally.reject("shadow_budget")
            return
        fits = self._fits.get(served.version)
        if fits is None:
            theirs, ours = served.signature, target.signature
            fits = (theirs.inputs, theirs.max_batch_size > 0) == (ours.inputs, ours.max_batch_size > 0) and (
                served.sequences or not target.sequences
            )
            self._fits[served.version] = fits
        if not fits:
            target.tally.reject("shadow_inputs")
            return
        self._inflight += 1
        self._inflight_bytes += nbytes
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append(request)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        deadline = monotonic() + SHADOW_S
        for request in waiting:
            target = self._target
            try:
                if target is not None:
                    layout = self._layout_of(request.layout, target)
                    copy = InferRequest(request.model, self.version, layout, request.payload, "", deadline, PATIENT_PRIORITY)
                    if isinstance(request, SequenceRequest):
                        copy = SequenceRequest(copy, request.step)
                    self._calls.submit(target, copy, self, None, "shadow")
                    continue
            except ServingError:
                pass  # the service has counted it
            self._give_back(request.layout.payload_bytes)

    def _layout_of(self, layout: Layout, target: Served) -> Layout:
        """Return a layout of our own: connections know layouts by their identity, and with which version they were last used."""
        known = self._layouts.get(id(layout))
        if known is None or known[0] is not layout:
            names = {output.name for output in target.signature.outputs}
            known = layout, replace(layout, outputs=tuple(o for o in layout.outputs if o in names))
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[id(layout)] = known
        return known[1]

    def part(self, call: StreamCall, response: InferResponse) -> None:
        """One of several answers of a decoupled model."""
        call.took(1)

    def answer(self, call: Call, response: InferResponse) -> None:
        """The copy has its answer, which the service has counted."""
        self._give_back(call.payload_bytes)

    def _give_back(self, nbytes: int) -> None:
        self._inflight -= 1
        self._inflight_bytes -= nbytes
