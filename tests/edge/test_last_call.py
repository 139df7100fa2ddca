"""The end of an engine: nobody new is let in, who has connected is served, and after the last gateway the port refuses."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys

import pytest

from serving.edge import EdgeKeeper, SlotClaim
from serving.edge.listeners import open_tcp, turn_away

from .conftest import Edge, eventually


def connects(port: int, within_s: float = 0.3) -> int:
    """Return 0 when somebody lets us in, else the error; EAGAIN: nobody says anything."""
    with socket.socket() as sock:
        sock.settimeout(within_s)
        return sock.connect_ex(("127.0.0.1", port))


async def leave(keeper: EdgeKeeper, claim: SlotClaim) -> None:
    """Leave as a gateway does; returns when the keeper has heard it."""
    claim.draining()
    for listener in claim.listeners:
        listener.close()
    slot = claim.slot
    await eventually(lambda: next(g["draining"] for g in keeper.status()["gateways"] if g["slot"] == slot))


@pytest.mark.parametrize("early", [True, False], ids=["before they leave", "after they have left"])
async def test_after_the_last_call_the_port_closes_with_the_last_gateway(edge: Edge, early: bool) -> None:
    await edge.start(edge="off", grpc_port=0)
    assert edge.keeper is not None
    port = edge.config.http_port
    claims = [await SlotClaim.claim(edge.config.run_dir, name) for name in "ab"]
    if early:
        await asyncio.to_thread(edge.keeper.last_call)
    await leave(edge.keeper, claims[0])
    assert connects(port) != errno.ECONNREFUSED
    await leave(edge.keeper, claims[1])
    if not early:
        assert connects(port, 60) == 0
        await asyncio.to_thread(edge.keeper.last_call)
    await eventually(lambda: connects(port) == errno.ECONNREFUSED)
    for claim in claims:
        claim.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to drop packets")
def test_who_has_connected_is_still_accepted_and_who_comes_later_is_not() -> None:
    listener = open_tcp("127.0.0.1", 0, "--http-port", shared=True)
    port = listener.getsockname()[1]
    with listener, socket.create_connection(("127.0.0.1", port)) as early:
        early.sendall(b"in time")
        turn_away(listener)
        assert connects(port) == errno.EAGAIN
        inside, _ = listener.accept()
        with inside:
            assert inside.recv(20) == b"in time"
            inside.sendall(b"welcome")
            assert early.recv(20) == b"welcome"
        listener.close()
        assert connects(port) == errno.ECONNREFUSED
