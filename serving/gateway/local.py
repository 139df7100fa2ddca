"""LocalChannel: a replica that is a Python function in this process. The whole data walk with no replica process.

For tests and micro-benchmarks. It keeps the promises of a real channel: calls of one turn are answered in a later turn,
never inside `send`; the payload is one buffer; the answer of a cancelled call is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from serving.errors import ServingError
from serving.gateway.call import Call, Deliver, Description
from serving.inference import Buffer, InferResponse, Layout

Predict = Callable[[Layout, Buffer], InferResponse]
"""predict(layout, payload) -> answer. A ServingError that it raises becomes the answer."""


class LocalChannel:
    """See `call.Channel`. `service.attach(LocalChannel(loop, service.calls.deliver, [description], predict))` makes it known."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, descriptions: list[Description], predict: Predict) -> None:
        self.inflight = 0
        self.paused = False
        self.usable = True
        self.versions = {d.key: d for d in descriptions}
        self.replica = "local"
        self.since = 0.0
        self._loop = loop
        self._deliver = deliver
        self._predict = predict
        self._queue: list[Call] = []

    def send(self, call: Call) -> None:
        self.inflight += 1
        if not self._queue:
            self._loop.call_soon(self._run)
        self._queue.append(call)

    def cancel(self, call: Call) -> None:
        self.inflight -= 1
        call.channel = None

    def took(self, call: Call, answers: int) -> None:
        pass

    def forget(self, key: str, sequence: bytes, done: Callable[[], None]) -> None:
        done()

    def room(self) -> bool:
        return True

    def calls(self) -> list[Call]:
        return [c for c in self._queue if c.channel is self]

    def tick(self) -> None:
        pass

    def retire(self) -> None:
        self.usable = False

    def close(self, reason: str) -> None:
        self.usable = False
        for call in self.calls():
            self.cancel(call)
        self._queue = []

    def _run(self) -> None:
        queue, self._queue = self._queue, []
        predict = self._predict
        now = monotonic()
        for call in queue:
            if call.channel is not self:
                continue
            request = call.request
            payload = request.payload
            try:
                response = predict(request.layout, payload[0] if len(payload) == 1 else b"".join(payload))
            except ServingError as e:
                served = call.served
                response = InferResponse(served.model, served.version, None, b"", e.code, e.message, retry_after_s=e.retry_after_s)
            self.inflight -= 1
            self._deliver(call, response, now)

    def __repr__(self) -> str:
        return f"LocalChannel({', '.join(self.versions)}, {self.inflight} in flight)"
