"""Runs the requests of one decoupled version: a generator each, in threads. Beside `Batcher`, with the same face for connections.

    loop thread      push → queue → step: expired ones leave, threads are woken or started; answers and ends are handed on
    worker threads   (up to policy.max_streams) take a request each, and drive its generator to the end

A generator stands still at its `yield` while its client has not taken what came before (MAX_UNTAKEN, UNTAKEN_BYTES), and is
closed there when the client has gone. Answers are copied, so a generator may yield the same array again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Condition, Thread, current_thread
from time import monotonic
from typing import Any, Protocol, cast

from serving.batching.entry import Answer, Entry, Owner
from serving.batching.reception import Reception, nothing, warm
from serving.batching.reply import Parameters, model_error, unpack
from serving.batching.stack import join
from serving.errors import Cancelled, Code, ModelFailed, ServingError, Unavailable
from serving.hosting import BatchPolicy
from serving.inference import Buffer
from serving.tensor import Signature

log = logging.getLogger(__name__)

MAX_UNTAKEN = 32
"""Answers of a request that may be on their way to its client."""
UNTAKEN_BYTES = 1 << 20
"""The same in bytes of payload; reached by the answer that goes over it."""


class StreamOwner(Owner, Protocol):
    """Who sent a request that may have several answers. `refuse` or `over` is the last thing that is said about it."""

    def part(self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...]) -> None: ...

    def over(self, entry: Entry, queue_us: int, compute_us: int) -> None: ...


class _Run:
    """A request whose generator runs. `sizes`: bytes of the answers that nobody has taken yet, oldest first.

    since     when the model was last asked for an answer that has not come; 0.0 = it is not being asked
    given_up  its request has been answered: the model is stuck
    """

    __slots__ = ("cancelled", "entry", "gate", "given_up", "nbytes", "since", "sizes", "spent", "started")

    def __init__(self, entry: Entry, gate: Condition, started: float) -> None:
        self.entry = entry
        self.gate = gate
        self.started = started
        self.spent = 0.0
        self.since = 0.0
        self.sizes: deque[int] = deque()
        self.nbytes = 0
        self.cancelled = False
        self.given_up = False

    @property
    def may_go_on(self) -> bool:
        return self.cancelled or (len(self.sizes) < MAX_UNTAKEN and self.nbytes < UNTAKEN_BYTES)


class _Event:
    """An answer of a run, or its end: then `answer` is None, and `error` says why it ended early."""

    __slots__ = ("answer", "error", "payload", "run")

    def __init__(self, run: _Run, answer: Answer | None, payload: bytes, error: ServingError | None) -> None:
        self.run = run
        self.answer = answer
        self.payload = payload
        self.error = error


class Streamer(Reception):
    """The queue, the threads and the counters of one version. Arguments as those of `Reception`.

    In `counts`, a batch is one generator that has ended.
    """

    alone = True

    def _prepare(self, signature: Signature) -> None:
        # shared with the threads, under the lock
        self._threads: set[Thread] = set()
        self._idle = 0
        self._starting = 0
        self._runs: dict[Entry, _Run] = {}
        # written by the threads, read by the loop
        self._events: deque[_Event] = deque()
        self._posted = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self, warm_up: Callable[[], None]) -> Future[None]:
        """Run `warm_up` in one of the threads; the future says how it ended. Callable from any thread."""
        ready: Future[None] = Future()
        with self._lock:
            self._start_thread(warm_up, ready)
        return ready

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the threads; generators are closed at their next `yield`."""
        with self._lock:
            self._stopping = True
            for run in self._runs.values():
                self._cancel_run(run)
            self._ready.notify_all()
            threads = list(self._threads)
        until = monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))

    def set_policy(self, policy: BatchPolicy) -> None:
        """Take over a policy. What runs goes on, even where fewer may run now."""
        with self._lock:
            self.policy = policy
            self._queue.set_policy(policy)
            self._ready.notify_all()
        self._wake(self)

    def check(self) -> None:
        """Raise Unavailable when all threads have waited too long for an answer of the model. Callable from any thread."""
        with self._lock:
            if self._stuck(monotonic()):
                raise Unavailable(self._hung())

    def _stuck(self, now: float) -> list[_Run]:
        stuck = [run for run in self._runs.values() if run.since and now - run.since > self.policy.predict_timeout_s]
        return stuck if len(stuck) >= self.policy.max_streams else []

    # ---- in the loop's thread

    def cancel(self, entry: Entry) -> None:
        """Forget the entry: out of the queue at once; a generator that runs is closed at its next `yield`, then CANCELLED is said."""
        with self._lock:
            removed = self._queue.remove(entry)
            entry.cancelled = True
            run = self._runs.get(entry)
            if run is not None:
                self._cancel_run(run)
        if removed:
            self._refuse(entry, Code.CANCELLED, "cancelled")

    def give_up(self, now: float) -> str:
        """Where all threads have waited too long for the model: answer their requests, and say so; else "".

        One stream that waits costs nobody else anything; the gateway's own bound ends it for its client.
        """
        with self._lock:
            stuck = self._stuck(now)
        for run in stuck:
            if not run.given_up:
                run.given_up = True
                self._refuse_hung(run.entry)
        return self._hung() if stuck else ""

    def taken(self, entry: Entry, answers: int) -> None:
        """The client has taken so many more of the answers."""
        with self._lock:
            run = self._runs.get(entry)
            if run is not None:
                for _ in range(min(answers, len(run.sizes))):
                    run.nbytes -= run.sizes.popleft()
                run.gate.notify()

    def step(self) -> None:
        """Do what is due: refuse the expired, wake or start threads, set the timer for the next look."""
        now = monotonic()
        with self._lock:
            late = self._queue.expire(now)
            waiting = self._queue.requests
            if waiting:
                self._ready.notify(waiting)
                missing = waiting - self._idle - self._starting
                for _ in range(min(missing, self.policy.max_streams - len(self._threads))):
                    self._start_thread(nothing, Future())
            due = self._queue.expires_at()
        self._refuse_late(late)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_later(max(0.0, due - now), self._wake, self)

    def _hand_on(self) -> None:
        """Give the owners what the threads have made."""
        self._posted = False  # before looking: what comes from now on posts again
        events = self._events
        while events:
            event = events.popleft()
            run = event.run
            if run.given_up:
                continue
            entry = run.entry
            owner = cast(StreamOwner, entry.owner)
            if event.answer is not None:
                if not entry.cancelled:
                    self._guarded(owner.part, entry, event.answer, (event.payload,))
            else:
                self._end(run, entry, owner, event.error)
        self._wake(self)

    def _end(self, run: _Run, entry: Entry, owner: StreamOwner, error: ServingError | None) -> None:
        counts = self.counts
        counts.batches += 1
        counts.rows += entry.kind.rows
        counts.compute_s += run.spent
        self.spread.ran(entry.kind.rows, run.spent)
        if entry.cancelled:
            error = Cancelled("cancelled")
        if error is not None:
            self._refuse(entry, error.code, error.message)
            return
        self.open -= 1
        counts.answered += 1
        wait = run.started - entry.arrived
        wait_us = int(wait * 1e6)
        counts.queue_s += wait
        self.spread.waits_us.add(wait_us)
        self._guarded(owner.over, entry, wait_us, int(run.spent * 1e6))

    def _guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as bug:
            self._report(bug, "an answer could not be handed on")

    # ---- under the lock

    def _start_thread(self, warm_up: Callable[[], None], ready: Future[None]) -> None:
        thread = Thread(target=self._work, args=(warm_up, ready), name=f"stream {self.key}", daemon=True)
        self._threads.add(thread)
        self._starting += 1
        thread.start()

    def _cancel_run(self, run: _Run) -> None:
        run.cancelled = True
        run.gate.notify()

    # ---- worker threads

    def _work(self, warm_up: Callable[[], None], ready: Future[None]) -> None:
        warm(warm_up, ready)
        with self._lock:
            self._starting -= 1
        while True:
            run = self._next()
            if run is None:
                return
            reason = self._drive(run)
            with self._lock:
                del self._runs[run.entry]
            self._post(_Event(run, None, b"", reason))

    def _next(self) -> _Run | None:
        """Wait for a request. None: this thread shall end."""
        with self._lock:
            while not self._stopping and len(self._threads) <= self.policy.max_streams:
                now = monotonic()
                batch = self._queue.take(now)
                if batch is not None:
                    (entry,) = batch.entries
                    run = self._runs[entry] = _Run(entry, Condition(self._lock), now)
                    return run
                self._idle += 1
                self._ready.wait()
                self._idle -= 1
            self._threads.discard(current_thread())
        return None

    def _drive(self, run: _Run) -> ServingError | None:
        """Ask the model for answers until it has no more, or nobody wants them. Returns what was wrong."""
        answers: Iterator[Any] | None = None
        try:
            answers = self._begin(run)
            wants = run.entry.kind.wants
            while self._wait(run):
                reply = self._ask(run, answers)
                if reply is _NO_MORE:
                    return None
                if run.cancelled:
                    return Cancelled("cancelled")
                parameters: Parameters = ()
                if type(reply) is tuple:
                    reply, parameters = unpack(reply, self._model)
                answer, payload = self._splitter.alone(reply, wants, parameters)
                with self._lock:
                    run.sizes.append(len(payload))
                    run.nbytes += len(payload)
                self._post(_Event(run, answer, payload, None))
            return Cancelled("cancelled")
        except BaseException as raised:  # a model may raise anything: SystemExit, the panics of Rust libraries
            return model_error(raised)
        finally:
            run.since = 0.0
            _close(answers, self.key)

    def _begin(self, run: _Run) -> Iterator[Any]:
        """Call the model; return its answers."""
        entry = run.entry
        run.since = began = monotonic()
        inputs = join((entry,), entry.kind.rows, self._own)
        reply = self._ask_model(inputs, entry)
        run.spent += monotonic() - began
        run.since = 0.0
        if reply is None:
            return iter(())
        if isinstance(reply, (dict, tuple)):
            return iter((reply,))
        try:
            return iter(reply)
        except TypeError:
            raise ModelFailed(
                f"model '{self._model}' returned a {type(reply).__name__}, expected a dict of numpy arrays by name, or an iterator of such"
            ) from None

    def _ask(self, run: _Run, answers: Iterator[Any]) -> Any:
        run.since = began = monotonic()
        reply = next(answers, _NO_MORE)
        run.spent += monotonic() - began
        run.since = 0.0
        return reply

    def _wait(self, run: _Run) -> bool:
        """Wait until the client has room for one more answer; False where it has gone."""
        with self._lock:
            while not run.may_go_on:
                run.gate.wait()
        return not run.cancelled

    def _post(self, event: _Event) -> None:
        self._events.append(event)
        if not self._posted:
            self._posted = True
            try:
                self._loop.call_soon_threadsafe(self._hand_on)
            except RuntimeError:  # the replica has stopped meanwhile
                log.debug("'%s': an answer came after the end", self.key)

    def __repr__(self) -> str:
        return f"Streamer({self.key}, {self.open} open, {len(self._runs)} running)"


_NO_MORE = object()


def _close(answers: Iterator[Any] | None, key: str) -> None:
    """Close a generator where it stands; other iterators may have no `close`."""
    close = getattr(answers, "close", None)
    if close is None:
        return
    try:
        close()
    except BaseException as raised:
        log.warning("'%s': closing the generator raised %s: %s", key, type(raised).__name__, raised)
