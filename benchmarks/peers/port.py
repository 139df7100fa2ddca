"""Free TCP ports on 127.0.0.1, and whether somebody answers there."""

import socket

import httpx


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago, each different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def answers_ok(address: str, path: str) -> bool:
    """Whether GET `path` at "host:port" gives 200."""
    try:
        return httpx.get(f"http://{address}{path}", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
