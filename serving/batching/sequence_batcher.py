"""The batcher of a model that keeps a state per sequence: `Sequences` in front of the queue of an ordinary `Batcher`.

A request that fails leaves the state as it was: the dict, shallowly, so values that the model assigns and not those that it changes in
place. That is also what makes it possible that the requests of a batch that raised run again one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, cast

from serving.batching.batcher import Batcher
from serving.batching.entry import Answer, Entry
from serving.batching.sequences import SequenceEntry, Sequences
from serving.errors import Code, InvalidArgument, ServingError
from serving.hosting import BatchPolicy, SequencePolicy
from serving.inference import Buffer
from serving.sequence import Sequence as Live
from serving.sequence import no_id, not_started
from serving.tensor import Signature


class SequenceBatcher(Batcher):
    """See `Batcher`. `predict` is called with `sequences`, one for each row of the batch, as a keyword."""

    def __init__(
        self,
        key: str,
        signature: Signature,
        policy: BatchPolicy,
        sequence: SequencePolicy,
        predict: Callable[..., Any],
        own_inputs: bool,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[Any], None],
        parametric: bool = False,
    ) -> None:
        super().__init__(key, signature, policy, self._ask, own_inputs, loop, wake, parametric)
        self.sequences = Sequences(self._model, sequence, policy)
        self._user = predict
        self._rows: list[Live] = []
        """Of the batch that runs."""
        self._relay = _Relay(self)
        self._over: deque[SequenceEntry] = deque()
        self._letting = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

    @property
    def queued(self) -> tuple[int, int]:
        requests, nbytes = super().queued
        return requests + self.sequences.waiting, nbytes + self.sequences.nbytes

    def set_policy(self, policy: BatchPolicy) -> None:
        self.sequences.batching = policy
        super().set_policy(policy)

    def stop(self, timeout_s: float = 5.0) -> None:
        if self._alarm is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._alarm.cancel)
        super().stop(timeout_s)

    # ---- in the loop's thread

    def push(self, entries: Sequence[Entry], now: float) -> None:
        self.counts.requests += len(entries)
        self.open += len(entries)
        for entry in entries:
            try:
                if not isinstance(entry, SequenceEntry):
                    raise InvalidArgument(no_id(self._model))
                if not self.sequences.arrive(entry, now):
                    entry.owner = self._relay
                    continue
            except ServingError as error:
                self._refuse(entry, error.code, error.message)
                continue
            entry.owner = self._relay
            self._enqueue(entry)
        self._wake(self)

    def cancel(self, entry: Entry) -> None:
        if isinstance(entry, SequenceEntry) and self.sequences.remove(entry):
            self._refuse(entry, Code.CANCELLED, "cancelled")
        else:
            super().cancel(entry)

    def step(self) -> None:
        now = monotonic()
        self._refuse_late(self.sequences.expire(now))
        self.sequences.free_idle(now)
        super().step()
        due = self.sequences.due()
        if due is not None and (self._alarm is None or due < self._alarm_at):
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = due
            self._alarm = self._loop.call_later(max(0.0, due - now), self._sound)

    def forget(self, key: bytes) -> None:
        """Drop a sequence that has been started elsewhere."""
        for entry in self.sequences.forget(key):
            self._refuse_unstarted(entry)

    def over(self, entry: SequenceEntry) -> None:
        """The request has been answered or refused: the next one of its sequence has its turn."""
        self._over.append(entry)
        if self._letting:
            return
        self._letting = True
        try:
            while self._over:
                following, refused = self.sequences.leave(self._over.popleft(), monotonic())
                for lost in refused:
                    self._refuse_unstarted(lost)
                if following is not None:
                    self._enqueue(following)
                    self._wake(self)
        finally:
            self._letting = False

    def _enqueue(self, entry: SequenceEntry) -> None:
        try:
            with self._lock:
                self._queue.push(entry, entry.arrived)
        except ServingError as error:
            self._refuse(entry, error.code, error.message)

    def _refuse_unstarted(self, entry: SequenceEntry) -> None:
        self._refuse(entry, Code.SEQUENCE_UNKNOWN, not_started(self._model, entry.step.id))

    def _sound(self) -> None:
        self._alarm = None
        self._wake(self)

    # ---- the model call, in the loop's thread or the worker

    def _call(self, batch: Any, inputs: Any) -> Any:
        entries = cast(list[SequenceEntry], batch.entries)
        rows = self._rows = [entry.sequence for entry in entries]
        before = [(row, row.state, dict(row.state) if type(row.state) is dict else None) for row in rows]
        for entry in entries:
            entry.ran = True
        outcome = super()._call(batch, inputs)
        if outcome.error is not None:
            for row, state, copy in before:
                row.state = state if copy is None else copy
        return outcome

    def _ask(self, inputs: Any, *more: Any) -> Any:
        return self._user(inputs, *more, sequences=self._rows)


class _Relay:
    """Owner of all entries of a batcher: hands on to who asked, then lets the next one of the sequence go."""

    def __init__(self, batcher: SequenceBatcher) -> None:
        self._batcher = batcher

    def answer(self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...], queue_us: int, compute_us: int, batch_rows: int) -> None:
        entry = cast(SequenceEntry, entry)
        try:
            entry.asker.answer(entry, answer, parts, queue_us, compute_us, batch_rows)
        finally:
            self._batcher.over(entry)

    def refuse(self, entry: Entry, code: Code, message: str, retry_after_s: float = 0.0) -> None:
        entry = cast(SequenceEntry, entry)
        try:
            entry.asker.refuse(entry, code, message, retry_after_s)
        finally:
            self._batcher.over(entry)
