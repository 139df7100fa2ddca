"""ReplicaHost: loads versions, warms them up, listens for gateways and answers them. Knows frames and batches; knows no Ray.

One thread with one uvloop loop reads and writes all connections and decides; a model with `execution: thread` has a thread of
its own, so a replica whose model is busy still answers PING.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

import uvloop

from serving.batching.batcher import Batcher
from serving.batching.reception import Reception
from serving.batching.sequence_batcher import SequenceBatcher
from serving.batching.stack import Splitter, zeros
from serving.batching.streams import Streamer
from serving.errors import AlreadyExists, Internal, InvalidArgument, ServingError, Unavailable
from serving.hosting import HostPlan, VersionPlan
from serving.models.model import Model
from serving.models.registry import create
from serving.replica.connection import Connection, Site, Version
from serving.replica.details import details
from serving.replica.polling import Polling
from serving.replica.samples import samples
from serving.replica.sharing import create_arena
from serving.replica.turn import Turn
from serving.tensor import DType, Signature
from serving.wire.frame import PROTOCOL

log = logging.getLogger(__name__)

BEAT_S = 0.25
LEAVE_S = 0.5
"""From the errors of a batch that hangs to the end of its process: until then they have left."""
PARALLEL_LOADS = 4
MAX_PATH_BYTES = 107
"""Longest path of a Unix socket."""

Progress = Callable[[str, str], None]
Hung = Callable[[str], None]


class ReplicaHost:
    """All versions of one replica process.

    replica_id   names the socket: `run_dir/replica-<id>.sock`
    tcp_host     address to listen on for gateways of other nodes, None = Unix socket only
    device       "cuda" where the plan was given a GPU (Ray has set CUDA_VISIBLE_DEVICES), else "cpu"
    arena_bytes  size of the memory that large answers are shared through with gateways of this node; 0 = none
    stuck_after_s  a loop that does not turn for so long makes `healthy` raise
    hung         is told when a model does not come back from a call; its process has to be replaced then
    """

    def __init__(
        self,
        plan: HostPlan,
        replica_id: str,
        run_dir: str,
        tcp_host: str | None = None,
        *,
        device: str = "cpu",
        arena_bytes: int = 1 << 28,
        stuck_after_s: float = 60.0,
        hung: Hung | None = None,
    ) -> None:
        self.plan = plan
        self.replica_id = replica_id
        self.address: dict[str, str] = {}
        self._path = Path(run_dir) / f"replica-{replica_id}.sock"
        self._tcp_host = tcp_host
        self._device = device
        self._arena_bytes = arena_bytes
        self._stuck_after_s = stuck_after_s
        self._told = hung or _log
        self._hung = ""
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = Thread(target=self._turn_loop, name=f"replica {replica_id}", daemon=True)
        self._turn = Turn(self._loop)
        self._site: Site | None = None
        self._servers: list[asyncio.Server] = []
        self._models: dict[str, Model] = {}
        self._batchers: dict[str, Reception] = {}
        self._beat = 0.0
        self._closed = Event()

    @property
    def signatures(self) -> dict[str, Signature]:
        """Return what each version takes and gives, by "model/version"."""
        return {} if self._site is None else {key: v.signature for key, v in self._site.versions.items()}

    def start(self, progress: Progress | None = None) -> None:
        """Load, warm up, then listen. `progress(key, state)` is called from several threads.

        Raises ServingError that says which version could not be loaded, and why; nothing is left behind then.
        """
        say = progress or _silent
        if not self.plan.versions:
            raise InvalidArgument(f"replica {self.replica_id} has no version to hold")
        try:
            self._load(say)
            self._thread.start()
            self._warm_up(say)
            self._in_loop(self._listen())
        except BaseException:
            self.stop()
            raise

    def reconfigure(self, plan: HostPlan) -> None:
        """Take over changed batching policies in place. Raises InvalidArgument for any other change: that needs a new replica."""
        old = {v.key: v for v in self.plan.versions}
        if [v.key for v in plan.versions] != list(old):
            raise InvalidArgument(f"replica {self.replica_id} holds {', '.join(old)}: other versions need another replica")
        for version in plan.versions:
            before = old[version.key]
            signature = (
                version.signature and before.signature and replace(version.signature, max_batch_size=before.signature.max_batch_size)
            )
            if replace(version, batching=before.batching, signature=signature) != before:
                raise InvalidArgument(f"'{version.key}' differs in more than its batching: that needs another replica")
            if bool(version.batching.max_batch_size) != bool(before.batching.max_batch_size):
                raise InvalidArgument(f"'{version.key}': a batch dimension cannot come or go in place")
        self._in_loop(self._reconfigure(plan))

    def healthy(self) -> None:
        """Raise Unavailable when the loop, a model or its device is stuck. Callable from any thread."""
        if self._hung:
            raise Unavailable(self._hung)
        if not self._thread.is_alive() or not self._servers:
            raise Unavailable(f"replica {self.replica_id} is not running")
        late = monotonic() - self._beat
        for batcher in self._batchers.values():
            batcher.check()
        if late > self._stuck_after_s:
            raise Unavailable(f"the loop of replica {self.replica_id} has not turned for {late:.0f} s")
        for model in self._models.values():
            model.check()

    def statistics(self) -> dict[str, dict[str, float]]:
        """Return sums since the start per version, and what waits now (`queued`, `queued_bytes`, `open`; live `sequences`)."""
        report = {}
        for key, batcher in self._batchers.items():
            requests, nbytes = batcher.queued
            report[key] = {**asdict(batcher.counts), "queued": requests, "queued_bytes": nbytes, "open": batcher.open}
            if isinstance(batcher, SequenceBatcher):
                report[key]["sequences"] = len(batcher.sequences)
        return report

    def trouble(self) -> tuple[int, str, int]:
        """Return how many requests models have failed since the start, what was said last, and how many rows of answers had NaN."""
        failed = [b for b in self._batchers.values() if b.model_failed]
        said = failed[-1].model_said if failed else ""
        return sum(b.model_failed for b in failed), said, sum(b.counts.nan_rows for b in self._batchers.values())

    def samples(self) -> list[list[Any]]:
        """Return what was counted since the start, as samples of the metrics page. Callable from any thread."""
        return [sample for key, batcher in self._batchers.items() for sample in samples(key, batcher)]

    def drain(self, timeout_s: float = 30.0) -> bool:
        """Send DRAIN to all gateways, answer what they have sent, close. False where the time was over before all was answered."""
        done: bool = self._in_loop(self._drain(timeout_s), timeout_s + 5.0)
        self.stop()
        return done

    def stop(self) -> None:
        """Stop at once: connections are cut, threads end, the socket goes. May be called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._thread.is_alive():
            self._in_loop(self._close())
        for batcher in self._batchers.values():
            batcher.stop()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        elif not self._loop.is_closed():
            self._loop.close()

    # ---- start

    def _load(self, say: Progress) -> None:
        def load(plan: VersionPlan) -> Model:
            say(plan.key, "loading")
            model = create(plan, self._device)
            model.load()
            return model

        with ThreadPoolExecutor(min(PARALLEL_LOADS, len(self.plan.versions)), thread_name_prefix="load") as pool:
            futures = [(v.key, pool.submit(load, v)) for v in self.plan.versions]
            for key, future in futures:
                self._models[key] = future.result()

    def _warm_up(self, say: Progress) -> None:
        ready: list[tuple[str, Future[None]]] = []
        for plan in self.plan.versions:
            model = self._models[plan.key]
            batcher = self._batchers[plan.key] = self._batcher(plan, model)
            say(plan.key, "warming up")
            ready.append((plan.key, batcher.start(_warming(plan, model))))
        for key, future in ready:
            future.result()
            say(key, "ready")

    def _batcher(self, plan: VersionPlan, model: Model) -> Reception:
        end = (model.predict, model.own_inputs, self._loop, self._turn.wake, model.parametric)
        if plan.sequence is not None:
            return SequenceBatcher(plan.key, model.signature, plan.batching, plan.sequence, *end)
        run = Streamer if model.decoupled else Batcher
        return run(plan.key, model.signature, plan.batching, *end)

    async def _listen(self) -> None:
        arena = create_arena(self._arena_bytes)
        if arena is None and self._arena_bytes:
            log.warning("replica %s: no shared memory; large tensors go through the socket", self.replica_id)
        site = self._site = Site(self._turn, Polling(self._loop), arena)
        self._greeting(site)
        loop = self._loop
        sock = _bind(self._path)
        server = await loop.create_unix_server(lambda: Connection(site, local=True), sock=sock)
        self._servers.append(server)
        self.address = {"uds": str(self._path), "tcp": "", "node": socket.gethostname()}
        if self._tcp_host is not None:
            tcp = await loop.create_server(lambda: Connection(site), self._tcp_host, 0)
            self._servers.append(tcp)
            host, port = tcp.sockets[0].getsockname()[:2]
            self.address["tcp"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _greeting(self, site: Site) -> None:
        versions = []
        for plan in self.plan.versions:
            model = self._models[plan.key]
            signature = replace(model.signature, max_batch_size=plan.batching.max_batch_size)
            site.versions[plan.key] = Version(self._batchers[plan.key], signature)
            version = {"model": plan.model, "version": plan.version, "signature": signature.to_json(), "platform": model.platform}
            versions.append({**version, "details": {**details(plan, self._device), "decoupled": model.decoupled}})
        site.hello = {"protocol": PROTOCOL, "replica": self.replica_id, "versions": versions}

    @property
    def gateways(self) -> int:
        """How many are connected. Callable from any thread."""
        return 0 if self._site is None else len(self._site.connections)

    # ---- in the loop

    def _turn_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._tick()
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())  # one more turn: transports that were cut close
        finally:
            self._loop.close()

    def _tick(self) -> None:
        self._beat = now = monotonic()
        self._loop.call_later(BEAT_S, self._tick)
        if self._hung:
            return
        for batcher in tuple(self._batchers.values()):
            self._hung = batcher.give_up(now)
            if self._hung:
                self._leave_hung()
                return

    def _leave_hung(self) -> None:
        """Have nothing new sent here; what waits goes to other replicas as soon as this process has ended."""
        site = self._site
        if site is not None:
            site.draining = True
            self._stop_listening()
            for connection in list(site.connections):
                connection.send_drain()
        self._loop.call_later(LEAVE_S, self._told, self._hung)

    def _in_loop(self, work: Any, timeout_s: float = 10.0) -> Any:
        if not self._thread.is_alive():
            work.close()
            raise Unavailable(f"replica {self.replica_id} is not running")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise Internal(f"the loop of replica {self.replica_id} does not answer") from None

    async def _reconfigure(self, plan: HostPlan) -> None:
        self.plan = plan
        for version in plan.versions:
            self._batchers[version.key].set_policy(version.batching)
        if self._site is not None:
            self._greeting(self._site)

    async def _drain(self, timeout_s: float) -> bool:
        site = self._site
        if site is None:
            return True
        site.draining = True
        self._stop_listening()
        for connection in list(site.connections):
            connection.send_drain()
        if not site.connections:
            return True
        try:
            await asyncio.wait_for(site.empty.wait(), timeout_s)
        except TimeoutError:
            log.warning("replica %s: %d gateways still open after %.1f s of drain", self.replica_id, len(site.connections), timeout_s)
            return False
        return True

    async def _close(self) -> None:
        self._stop_listening()
        if self._site is not None:
            for connection in list(self._site.connections):
                connection.abort()
            if self._site.connections:
                await self._site.empty.wait()
            if self._site.arena is not None:
                self._site.arena.close()

    def _stop_listening(self) -> None:
        if self._servers:
            self._path.unlink(missing_ok=True)
        for server in self._servers:
            server.close()
        self._servers = []

    def __repr__(self) -> str:
        return f"ReplicaHost({self.replica_id}, {', '.join(v.key for v in self.plan.versions)})"


def _warming(plan: VersionPlan, model: Model) -> Callable[[], None]:
    """Return what warms the model up and compares its answers with its signature.

    Where the signature leaves dimensions open, or takes text, zeros may not be what the model can work with: then a failure is only logged.
    """
    signature = model.signature
    sizes = sorted(set(plan.warm_up or (1, max(1, plan.batching.max_batch_size)))) if signature.batched else [1]
    guessed = any(-1 in s.shape or s.dtype is DType.BYTES for s in signature.inputs)

    def warm_up() -> None:
        try:
            answers = model.warm_up([zeros(signature, rows) for rows in sizes])
            splitter = Splitter(plan.model, signature)
            for rows, answer in zip(sizes, answers, strict=False):
                if model.decoupled:
                    splitter.alone(answer, ())
                else:
                    splitter.check(answer, rows)
        except ServingError:
            raise
        except Exception as error:
            if not guessed:
                raise Internal(f"'{plan.key}': warm-up with zeros raised {type(error).__name__}: {error}") from error
            log.warning("'%s': warm-up with guessed inputs raised %s: %s", plan.key, type(error).__name__, error)

    return warm_up


def _bind(path: Path) -> socket.socket:
    """Return a Unix socket bound to `path`, 0600, in place of one whose process has died.

    Raises AlreadyExists where a living process listens there, InvalidArgument where the path is too long.
    """
    if len(str(path).encode()) > MAX_PATH_BYTES:
        raise InvalidArgument(
            f"{path} is longer than the {MAX_PATH_BYTES} bytes that a Unix socket's path may have; use a shorter directory"
        )
    if path.exists():
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
            else:
                raise AlreadyExists(f"another process listens on {path}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)  # before listen(): nobody can have connected in between
    except OSError as error:
        sock.close()
        raise InvalidArgument(f"cannot listen on {path}: {error.strerror}") from None
    return sock


def _log(reason: str) -> None:
    log.error("%s", reason)


def _silent(key: str, state: str) -> None:
    return None
