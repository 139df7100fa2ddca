"""Runs one version's batches: the asyncio shell around the queue.

    loop thread     push → queue → step: expired ones leave, the model is started or woken; outcomes are split and answered
    worker thread   (execution: thread) takes the next batch itself as soon as it is free, joins it, calls the model
    joiner thread   (started when first needed) joins a full batch of AHEAD_BYTES or more while the model runs

The worker takes batches itself, so the model never waits for the loop between two batches; the queue is under a lock for that,
taken once per frame and once per batch. Smaller batches take less time to join than to hand to another thread.

One bad request must not fail its neighbours: when a batch of several raises, its requests run again one by one, and each gets
its own answer as soon as it is there. A request is seen twice at most, and not again when its caller has gone or its deadline is over;
`policy.isolate` is False where a model must not see a request twice: then all of the batch get the error.

Whatever a model raises or gives back, whatever an owner does with its answer: every other entry gets its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from serving.batching.entry import Entry
from serving.batching.nan import float_outputs, nan_rows
from serving.batching.queue import Batch
from serving.batching.reception import Reception, nothing, warm
from serving.batching.reply import Parameters, model_error, unpack
from serving.batching.stack import Arrays, join
from serving.errors import Cancelled, Code, DeadlineExceeded, ModelFailed, ServingError, Unavailable
from serving.hosting import BatchPolicy
from serving.tensor import Signature

log = logging.getLogger(__name__)

AHEAD_BYTES = 256 * 1024
"""A full batch from this size on is joined while another runs (100 µs of copying against 30 µs of thread hand-over)."""


class _Outcome:
    """What became of a batch: what the model gave back (anything at all) or an error; when it started (0.0: it did not run) and ended."""

    __slots__ = ("batch", "ended", "error", "nan_rows", "outputs", "parameters", "started")

    def __init__(
        self,
        batch: Batch,
        started: float,
        ended: float,
        outputs: Any,
        error: ServingError | None,
        nan_rows: int = 0,
        parameters: Parameters = (),
    ) -> None:
        self.batch = batch
        self.started = started
        self.ended = ended
        self.outputs = outputs
        self.error = error
        self.nan_rows = nan_rows
        self.parameters = parameters


class Batcher(Reception):
    """The queue, the thread and the counters of one version. Arguments as those of `Reception`."""

    def _prepare(self, signature: Signature) -> None:
        self._batched = signature.batched
        self._floats = float_outputs(signature)
        self._inline = self.policy.execution == "inline"
        # shared with the threads, under the lock
        self._idle = False
        self._joining = False
        self._ahead: tuple[Batch, Arrays | None] | None = None
        # written by one thread, read by others
        self._done: deque[_Outcome] = deque()
        self._running: tuple[Batch, float] | None = None
        """What the model has now, and since when."""
        self._given_up: Batch | None = None
        self._worker: Thread | None = None
        self._joiner: SimpleQueue[Batch | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def start(self, warm_up: Callable[[], None]) -> Future[None]:
        """Run `warm_up` in the thread that will call the model; the future says how it ended. Callable from any thread."""
        ready: Future[None] = Future()
        if self._inline:
            self._loop.call_soon_threadsafe(warm, warm_up, ready)
        else:
            self._start_worker(warm_up, ready)
        return ready

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the threads. What is still queued stays unanswered: drain before."""
        with self._lock:
            self._stopping = True
            self._ready.notify_all()
        if self._joiner is not None:
            self._joiner.put(None)
        if self._worker is not None:
            self._worker.join(timeout_s)

    def set_policy(self, policy: BatchPolicy) -> None:
        """Take over a policy; a change between inline and thread happens between two batches."""
        with self._lock:
            self.policy = policy
            self._queue.set_policy(policy)
            self._inline = policy.execution == "inline"
            self._ready.notify_all()
        if not self._inline and self._worker is None:
            self._start_worker(nothing, Future())
        self._wake(self)

    def check(self) -> None:
        """Raise Unavailable when the model has been in one batch for too long or its thread has ended. Callable from any thread."""
        running = self._running
        if running is not None and monotonic() - running[1] > self.policy.predict_timeout_s:
            raise Unavailable(self._hung())
        worker = self._worker
        if worker is not None and not worker.is_alive() and not self._inline and not self._stopping:
            raise Unavailable(f"the thread of model '{self.key}' has ended")

    # ---- in the loop's thread

    def cancel(self, entry: Entry) -> None:
        """Forget the entry: out of the queue at once, and answered CANCELLED; a batch that runs goes on without its answer."""
        with self._lock:
            removed = self._queue.remove(entry)
        if removed:
            self._refuse(entry, Code.CANCELLED, "cancelled")
        else:
            entry.cancelled = True

    def give_up(self, now: float) -> str:
        """Answer a batch that the model has had for longer than it may, and say so; "" where there is none.

        The thread cannot be ended: this process has to be replaced. Should the model come back after all, nobody hears of it.
        """
        running = self._running  # one look: the worker may be on with the next batch
        if running is None or now - running[1] <= self.policy.predict_timeout_s:
            return ""
        reason = self._hung()
        if running[0] is not self._given_up:
            self._given_up = running[0]
            for entry in running[0].entries:
                self._refuse_hung(entry)
        return reason

    def step(self) -> None:
        """Do what is due: refuse the expired, start or wake the model, set the timer for the next look."""
        now = monotonic()
        queue = self._queue
        with self._lock:
            late = queue.expire(now)
            if self._inline:
                batch = queue.take(now) if self._worker is None else None
                due = queue.due(now)
            else:
                batch = None
                due = queue.expires_at()
                if queue.requests and self._idle:
                    self._ready.notify()
                elif self._running is not None and not self._joining and self._ahead is None and queue.full_bytes() >= AHEAD_BYTES:
                    self._join_ahead(now)
        if late:
            self._refuse_late(late)
        if batch is not None:
            for outcome in self._run(batch, None):
                self._deliver(outcome)
            if due is not None and due <= now:
                self._wake(self)
                return
        if due is not None and (not self._inline or self._worker is None):
            self._arm(due, now)

    def _arm(self, at: float, now: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake(self)

    def _finish(self) -> None:
        done = self._done
        while done:
            self._deliver(done.popleft())
        self._wake(self)

    def _deliver(self, outcome: _Outcome) -> None:
        """Answer the entries of a batch, each exactly once. Raises nothing: others wait behind this one."""
        batch = outcome.batch
        if batch is self._given_up:
            return
        entries = batch.entries
        rows = batch.rows
        started = outcome.started
        spent = outcome.ended - started
        counts = self.counts
        if started:
            counts.batches += 1
            counts.rows += rows
            counts.compute_s += spent
            self.spread.ran(rows, spent)
        error = outcome.error
        if error is None:
            try:
                results = self._splitter.split(outcome.outputs, entries, rows, outcome.parameters)
            except ModelFailed as mismatch:
                error = mismatch
            except Exception as raised:
                error = ModelFailed(f"the answer of model '{self._model}' cannot be read: {type(raised).__name__}: {raised}")
        if error is not None:
            for entry in entries:
                self._refuse(entry, error.code, error.message)
            return
        if outcome.nan_rows:
            self._count_nan(outcome.nan_rows)
        compute_us = int(spent * 1e6)
        waits = self.spread.waits_us.counts
        arrived = -1.0
        waited = wait = 0.0
        wait_us = octave = answered = 0
        for entry, (answer, parts) in zip(entries, results, strict=True):
            if entry.cancelled:
                self._refuse(entry, Code.CANCELLED, "cancelled")
                continue
            if entry.arrived != arrived:  # those of a frame have arrived at the same time
                arrived = entry.arrived
                wait = started - arrived
                wait_us = int(wait * 1e6)
                octave = wait_us.bit_length()
            waited += wait
            answered += 1
            waits[octave] += 1
            try:
                entry.owner.answer(entry, answer, parts, wait_us, compute_us, rows)
            except Exception as bug:
                self._report(bug, "an answer could not be handed on")
        counts.queue_s += waited
        counts.answered += answered
        self.open -= answered

    def _count_nan(self, rows: int) -> None:
        if not self.counts.nan_rows:
            log.warning("'%s' has answered NaN", self.key)
        self.counts.nan_rows += rows

    # ---- the model call, in the loop's thread or the worker

    def _run(self, batch: Batch, inputs: Arrays | None) -> Iterable[_Outcome]:
        """Run the batch; where it raises, its requests one by one. Gives what has become of each part as soon as it is known."""
        outcome = self._call(batch, inputs)
        if outcome.error is None or len(batch.entries) == 1 or not self.policy.isolate:
            return (outcome,)
        return self._run_alone(batch.entries)  # which holds no inputs: the memory of the batch is not needed any more

    def _run_alone(self, entries: Sequence[Entry]) -> Iterator[_Outcome]:
        for entry in entries:
            alone = Batch([entry], entry.kind.rows, entry.kind.nbytes)
            if entry.cancelled:
                yield _Outcome(alone, 0.0, 0.0, None, Cancelled("cancelled"))
            elif 0.0 < entry.deadline <= monotonic():
                yield _Outcome(alone, 0.0, 0.0, None, DeadlineExceeded("Deadline Exceeded"))
            else:
                self.counts.alone += 1
                yield self._call(alone, None)

    def _call(self, batch: Batch, inputs: Arrays | None) -> _Outcome:
        started = monotonic()
        self._running = batch, started
        try:
            if inputs is None:
                inputs = join(batch.entries, batch.rows, self._own)
            outputs = self._ask_model(inputs, batch.entries[0])
            parameters: Parameters = ()
            if type(outputs) is tuple:
                outputs, parameters = unpack(outputs, self._model)
            nans = nan_rows(outputs, self._floats, batch.rows, self._batched)
        except BaseException as raised:  # a model may raise anything: SystemExit, the panics of Rust libraries
            return _Outcome(batch, started, monotonic(), None, model_error(raised))
        finally:
            self._running = None
        return _Outcome(batch, started, monotonic(), outputs, None, nans, parameters)

    # ---- threads

    def _start_worker(self, warm_up: Callable[[], None], ready: Future[None]) -> None:
        self._worker = Thread(target=self._work, args=(warm_up, ready), name=f"model {self.key}", daemon=True)
        self._worker.start()

    def _work(self, warm_up: Callable[[], None], ready: Future[None]) -> None:
        warm(warm_up, ready)
        post = self._loop.call_soon_threadsafe
        done = self._done
        while True:
            job = self._next()
            if job is None:
                break
            for outcome in self._run(*job):
                done.append(outcome)
                post(self._finish)
            del job
        if not self._stopping:
            post(self._ended)

    def _next(self) -> tuple[Batch, Arrays | None] | None:
        """Wait for work: a batch that was joined ahead, or the next of the queue. None: the thread shall end."""
        queue = self._queue
        ready = self._ready
        with self._lock:
            while not self._stopping:
                job = self._ahead
                if job is not None:
                    self._ahead = None
                    return job
                now = monotonic()
                due = None
                if not self._joining:
                    if self._inline:
                        return None
                    batch = queue.take(now)
                    if batch is not None:
                        return batch, None
                    due = queue.due(now)
                self._idle = True
                ready.wait(None if due is None else max(0.0, due - now))
                self._idle = False
        return None

    def _ended(self) -> None:
        self._worker = None
        if not self._inline:
            self._start_worker(nothing, Future())
        self._wake(self)

    def _join_ahead(self, now: float) -> None:
        batch = self._queue.take(now)
        if batch is None:
            return
        if self._joiner is None:
            self._joiner = SimpleQueue()
            Thread(target=self._join_loop, args=(self._joiner,), name=f"joiner {self.key}", daemon=True).start()
        self._joining = True
        self._joiner.put(batch)

    def _join_loop(self, jobs: SimpleQueue[Batch | None]) -> None:
        while True:
            batch = jobs.get()
            if batch is None:
                return
            inputs: Arrays | None = None
            try:
                inputs = join(batch.entries, batch.rows, self._own)
            except BaseException as error:
                # the worker joins it again and sees whose it was; this thread must live, for the worker waits for it
                log.debug("'%s': joining ahead: %r", self.key, error)
            with self._lock:
                self._ahead = (batch, inputs)
                self._joining = False
                self._ready.notify()

    def __repr__(self) -> str:
        return f"Batcher({self.key}, {'inline' if self._inline else 'thread'}, {self.open} open)"
