"""Listening sockets: probe a port, open it, find out who has it. No asyncio."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
from pathlib import Path

from serving.errors import Unavailable

_log = logging.getLogger(__name__)
BACKLOG = 4096
_LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""


def probe(host: str, port: int, flag: str) -> None:
    """Raise Unavailable when somebody listens on `port`; `flag` is the option that changes it.

    A plain bind, without SO_REUSEPORT: with it two servers share a port and half of the connections go to the wrong one.
    """
    sock = _tcp(host)
    try:
        sock.bind((host, port))
    except OSError as error:
        raise _refused(host, port, flag, error) from error
    finally:
        sock.close()


def open_tcp(host: str, port: int, flag: str, *, shared: bool) -> socket.socket:
    """Return a listener; with `shared` one of several on the same port (SO_REUSEPORT)."""
    sock = _tcp(host)
    try:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refused(host, port, flag, error) from error
    return sock


def open_unix(path: str) -> socket.socket:
    """Return a listener on `path`, mode 0600; what lay there before is removed. The caller's directory is private."""
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.bind(path)
        Path(path).chmod(0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Unavailable(f"cannot listen on {path}: {error.strerror}") from error
    return sock


def answers(path: str) -> bool:
    """True when a living process listens on the Unix socket at `path`; full queues count as living."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def listens_on(sock: socket.socket, host: str, port: int) -> bool:
    """True when `sock` is a TCP listener on exactly this address."""
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or sock.family == socket.AF_UNIX:
            return False
        return bool(sock.getsockname()[1] == port and sock.family == _family(host))
    except OSError:
        return False


def owner(port: int) -> str:
    """Return "name (pid 12)" of a process that listens on `port`, "" when it cannot be seen (another user's)."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening_inodes(Path("/proc/net") / table, port)}
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return ""


def _listening_inodes(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _refused(host: str, port: int, flag: str, error: OSError) -> Unavailable:
    who = owner(port)
    reason = f"is in use, by {who}" if who else (error.strerror or str(error)).lower()
    return Unavailable(f"port {port} on {host} cannot be opened: {reason}; choose another with {flag}")


def _tcp(host: str) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    sock.setblocking(False)
    # a port whose last connections are still closing is free
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def turn_away(listener: socket.socket) -> None:
    """Have the kernel drop the SYN of whoever wants to connect; who is connected and waits in the queue stays there.

    A client tries again a second later and is refused then, if the listener is closed. Without this, those who connect between the last
    accept and the close would be cut off with a request in their hands. Does nothing where the system cannot (not Linux).
    """
    program = b"".join(_BPF.pack(*instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program, len(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer)))
    except OSError as error:
        _log.warning("clients may still connect while the engine ends: %s", error.strerror)


_SO_ATTACH_FILTER = 26
_BPF = struct.Struct("HBBI")
_DROP_SYN = [
    (0x30, 0, 0, 13),  # A = flags of the TCP header
    (0x54, 0, 0, 0x02),  # A &= SYN
    (0x15, 0, 1, 0x02),  # a SYN?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # let it pass
]
