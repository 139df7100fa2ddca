"""Free TCP ports, and whether somebody answers there."""

import random
import socket
import sys

import httpx


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that nobody has, each different.

    They lie below those that the kernel gives to outgoing connections (and Ray to its processes): such a one may be gone in a moment.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
        if _take(port):
            found.append(port)
    return found


def _take(port: int) -> bool:
    """Whether no process that looks for ports here has got this one before, as long as that process lives.

    Between the choice of a port and its use another one could choose the same. A name in the kernel's own name space cannot be had
    twice, and goes with the process.
    """
    if sys.platform != "linux":
        return True
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0serving-free-port-{port}")
    except OSError:
        mark.close()
        return False
    mark.detach()  # it stays open, on purpose
    return True


def answers_ok(address: str, path: str) -> bool:
    """Whether GET `path` at "host:port" gives 200."""
    try:
        return httpx.get(f"http://{address}{path}", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
