"""Reception: what every way of running a version's requests begins with. They are queued here, and refused here.

`Batcher` and `Streamer` say what becomes of the queue: in `step`, which the loop's thread calls, and in threads of their own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Lock
from typing import Any

from serving.batching.entry import Entry
from serving.batching.octaves import Spread
from serving.batching.queue import Queue
from serving.batching.reply import model_error
from serving.batching.stack import Arrays, Splitter
from serving.errors import Code, ServingError
from serving.hosting import BatchPolicy
from serving.tensor import Signature

Predict = Callable[..., Any]
"""predict(inputs) -> outputs or (outputs, parameters); predict(inputs, parameters) where the model takes the parameters of its requests."""


@dataclass(slots=True)
class Counts:
    """Sums since the start. `rows` and the times are of batches that ran; `queue_s` adds the waiting of each answered request.

    alone     requests that ran a second time, without the neighbours with which they had raised
    nan_rows  rows of answers with a NaN in them, which is a number like others and is passed on
    """

    requests: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    expired: int = 0
    cancelled: int = 0
    batches: int = 0
    rows: int = 0
    alone: int = 0
    nan_rows: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0


class Reception(ABC):
    """The queue and the counters of one version. All methods but `start`, `check` and `stop` belong to the loop's thread.

    own_inputs  the model wants fresh writable arrays (see `stack.join`)
    wake        asks the host to call `step` at the end of this turn of the loop, when all frames that arrived have been pushed
    parametric  the model takes the parameters of its requests as a second argument; those of a batch are all the same
    """

    alone = False
    """Every request is a batch of its own."""

    def __init__(
        self,
        key: str,
        signature: Signature,
        policy: BatchPolicy,
        predict: Predict,
        own_inputs: bool,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[Any], None],
        parametric: bool = False,
    ) -> None:
        self.key = key
        self.counts = Counts()
        self.spread = Spread()
        self.policy = policy
        self.open = 0
        """Entries pushed and not over yet."""
        self.model_failed = 0
        """Requests that the model has failed: it raised, hung, or answered what its signature does not allow."""
        self.model_said = ""
        """What was said to the last of them."""
        self._model = key.partition("/")[0]
        self._predict = predict
        self._own = own_inputs
        self._parametric = parametric
        self._loop = loop
        self._wake = wake
        self._splitter = Splitter(self._model, signature)
        # shared with the threads, under the lock
        self._lock = Lock()
        self._ready = Condition(self._lock)
        self._queue = Queue(self._model, policy, self.alone)
        self._stopping = False
        self._prepare(signature)

    @abstractmethod
    def _prepare(self, signature: Signature) -> None:
        """Make what this way of running requests needs besides."""

    @abstractmethod
    def start(self, warm_up: Callable[[], None]) -> Future[None]:
        """Run `warm_up` where the model will be called; the future says how it ended. Callable from any thread."""

    @abstractmethod
    def stop(self, timeout_s: float = 5.0) -> None:
        """End the threads. What is still queued stays unanswered: drain before."""

    @abstractmethod
    def set_policy(self, policy: BatchPolicy) -> None:
        """Take over a policy; what runs goes on."""

    @abstractmethod
    def check(self) -> None:
        """Raise Unavailable when the model is stuck. Callable from any thread."""

    @abstractmethod
    def give_up(self, now: float) -> str:
        """Answer what the model has had for longer than it may, and say so; "" where there is nothing."""

    def _hung(self) -> str:
        limit_s = self.policy.predict_timeout_s
        return f"model '{self._model}' has not answered for {limit_s:g} s (predict_timeout_s); its replica is replaced"

    def _refuse_hung(self, entry: Entry) -> None:
        if entry.cancelled:
            self._refuse(entry, Code.CANCELLED, "cancelled")
        else:
            self._refuse(entry, Code.MODEL_FAILED, self._hung())

    @property
    def queued(self) -> tuple[int, int]:
        """Return (requests, payload bytes) that wait."""
        return self._queue.requests, self._queue.nbytes

    def push(self, entries: Sequence[Entry], now: float) -> None:
        """Queue the entries that arrived in one frame; those that cannot be taken are refused at once."""
        put = self._queue.push
        refused: list[tuple[Entry, ServingError]] = []
        with self._lock:
            for entry in entries:
                try:
                    put(entry, now)
                except ServingError as error:
                    refused.append((entry, error))
        self.counts.requests += len(entries)
        self.open += len(entries)
        for entry, reason in refused:
            self._refuse(entry, reason.code, reason.message)
        self._wake(self)

    @abstractmethod
    def cancel(self, entry: Entry) -> None:
        """Forget the entry, and answer it CANCELLED."""

    @abstractmethod
    def step(self) -> None:
        """Do what is due."""

    # ---- for those who run the requests

    def _refuse_late(self, late: Iterable[Entry]) -> None:
        """Refuse those whose time is over, each with what its `code` means."""
        for entry in late:
            self._refuse(entry, entry.code, "Deadline Exceeded" if entry.code == Code.DEADLINE_EXCEEDED else "Request timeout expired")

    def _refuse(self, entry: Entry, code: Code, message: str) -> None:
        self.open -= 1
        counts = self.counts
        if code == Code.CANCELLED:
            counts.cancelled += 1
        elif code in (Code.DEADLINE_EXCEEDED, Code.QUEUE_TIMEOUT):
            counts.expired += 1
        elif code == Code.QUEUE_FULL:
            counts.refused += 1
        else:
            counts.failed += 1
            if code == Code.MODEL_FAILED:
                self.model_failed += 1
                self.model_said = message
        try:
            entry.owner.refuse(entry, code, message)
        except Exception as bug:
            self._report(bug, "an error could not be handed on")

    def _report(self, bug: Exception, what: str) -> None:
        self._loop.call_exception_handler({"message": f"'{self.key}': {what}", "exception": bug})

    def _ask_model(self, inputs: Arrays, entry: Entry) -> Any:
        """Return what the model gives back for a batch of which `entry` is one."""
        if self._parametric:
            return self._predict(inputs, dict(entry.kind.layout.parameters))
        return self._predict(inputs)


def warm(warm_up: Callable[[], None], ready: Future[None]) -> None:
    """Run `warm_up`; `ready` says how it ended."""
    try:
        warm_up()
    except (Exception, SystemExit) as error:
        ready.set_exception(model_error(error))
    else:
        ready.set_result(None)


def nothing() -> None:
    """The warm-up of a thread that is not the first one."""
