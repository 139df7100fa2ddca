"""HAProxy is restarted when it dies, never left behind, and says why when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from serving.edge import EdgeConfig
from serving.edge.process import PID_FILE, HAProxy, find_haproxy
from serving.errors import InvalidArgument, Unavailable

from .conftest import Edge, eventually

TETHER = str(Path(sys.modules[HAProxy.__module__].__file__ or "").with_name("tether.py"))


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def haproxy_pid(edge: Edge) -> int | None:
    assert edge.keeper is not None
    pid: int | None = edge.keeper.status()["haproxy"]["pid"]
    return pid


async def test_a_killed_haproxy_is_back(edge: Edge) -> None:
    await edge.start()
    for restarts in (1, 2):
        before = haproxy_pid(edge)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await eventually(lambda before=before: haproxy_pid(edge) not in (None, before))  # type: ignore[misc]  # bound on purpose
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", edge.config.grpc_port)
                    break
                except OSError:
                    await asyncio.sleep(0.01)
        writer.close()
        assert edge.keeper is not None
        assert edge.keeper.status()["haproxy"]["restarts"] == restarts
        edge.keeper.healthy()


async def test_haproxy_dies_with_its_keeper(edge: Edge) -> None:
    keeper = await edge.keeper_process()
    pid = read_pid(edge.config)
    assert alive(pid)
    keeper.kill()
    await eventually(lambda: not alive(pid))


def read_pid(config: EdgeConfig) -> int:
    return int(Path(config.path(PID_FILE)).read_text())


async def test_an_orphan_is_ended_by_the_next_keeper(edge: Edge, config: EdgeConfig) -> None:
    """Should one ever slip through: started as ours was, but by somebody who lives on."""
    await edge.start()
    assert edge.keeper is not None
    binary = find_haproxy()
    assert binary is not None
    await asyncio.to_thread(edge.keeper.close, 0.0)
    orphan = start_orphan(binary, config)
    await edge.start()
    assert orphan.wait(60) == -signal.SIGKILL
    assert haproxy_pid(edge) not in (None, orphan.pid)


def start_orphan(binary: str, config: EdgeConfig) -> subprocess.Popen[bytes]:
    orphan = subprocess.Popen([binary, "-db", "-f", config.path("haproxy.cfg")], stderr=subprocess.DEVNULL)
    Path(config.path(PID_FILE)).write_text(f"{orphan.pid}\n")
    return orphan


@pytest.mark.parametrize("content", ["", "x", "999999999", str(os.getpid())], ids=["empty", "no number", "nobody", "somebody else"])
async def test_a_stale_pid_file_hurts_nobody(edge: Edge, content: str) -> None:
    write(edge.config.path(PID_FILE), content)
    await edge.start()
    assert haproxy_pid(edge)


def write(path: str, content: str) -> None:
    Path(path).write_text(content)


async def test_a_certificate_that_is_none_is_told_before_haproxy_starts(edge: Edge) -> None:
    with pytest.raises(InvalidArgument, match=r"TLS: .*test_process\.py and its key cannot be used"):
        await edge.start(tls_certificate=__file__)


async def test_a_certificate_that_cannot_be_read_is_named(edge: Edge) -> None:
    with pytest.raises(InvalidArgument, match=r"TLS: /nowhere/c\.pem: No such file"):
        await edge.start(tls_certificate="/nowhere/c.pem")


async def test_a_certificate_and_its_key_may_lie_in_two_files(edge: Edge, certificate: Path) -> None:
    await edge.start(tls_certificate=str(certificate), tls_key=f"{certificate}.key")
    assert haproxy_pid(edge)


async def test_a_binary_that_ends_at_once_is_told(config: EdgeConfig) -> None:
    haproxy = HAProxy(config, "/bin/false")
    with pytest.raises(Unavailable, match="it said nothing"):
        await haproxy.start()
    await haproxy.stop(0.0)


async def test_a_haproxy_that_does_not_listen_to_signals_is_killed(config: EdgeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that answers the admin socket and ignores all that can be ignored."""
    monkeypatch.setattr("serving.edge.process._KILL_S", 0.2)
    stubborn = write_program(config.path("stubborn"))
    haproxy = HAProxy(config, stubborn)
    await haproxy.start()
    pid = haproxy.pid
    assert pid is not None
    await haproxy.stop(0.2)
    assert not alive(pid)


def write_program(path: str) -> str:
    text = f"""#!{sys.executable}
import os, signal, socket, sys
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
server = socket.socket(socket.AF_UNIX)
server.bind(os.path.join(os.path.dirname(sys.argv[-1]), "haproxy.sock"))
server.listen()
while True:
    client, _ = server.accept()
    client.recv(100)
    client.sendall(f"Pid: {{os.getpid()}}\\n".encode())
    client.close()
"""
    Path(path).write_text(text)
    Path(path).chmod(stat.S_IRWXU)
    return path


def test_a_tethered_program_is_not_started_for_a_parent_that_has_gone() -> None:
    done = subprocess.run([sys.executable, TETHER, "1", "/bin/echo", "started"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the parent has gone" in done.stderr


def test_where_there_is_no_haproxy_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    assert find_haproxy() is None
