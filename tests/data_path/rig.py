"""DataPath: the edge, gateways and replicas of one node in this process, with no Ray. HAProxy is the real one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.port import free_ports
from serving.access.settings import AccessRules
from serving.control.desk import Desk
from serving.control.wishes import Edit, Tell, WishBook, handlers, untold
from serving.edge import Adopt, EdgeConfig, EdgeKeeper, Reporter, SlotClaim
from serving.gateway.peers import PeerAddress
from serving.gateway.server import GatewayServer
from serving.hosting import HostPlan
from serving.replica.host import ReplicaHost
from serving.routing import PLAIN, Route, RouteTable, Traffic
from serving.state import DESK_SOCKET, GatewayLimits, GatewayState, quota_file
from serving.wishes import Wishes


def free_port() -> int:
    return free_ports(1)[0]


def wait_for(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within the time."""
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.002)


async def eventually(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """`wait_for`, while the loop turns."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


class Member:
    """A gateway with its slot at the edge: what the shell around it does, without Ray."""

    def __init__(self, path: DataPath, name: str) -> None:
        self.name = name
        self.faults: list[dict[str, Any]] = []
        """What reached the exception handler of the gateway's loop: bugs."""
        self.server = GatewayServer(name, path.run_dir)
        self.leaving = False
        self._path = path
        self._adopted: dict[int, int] = {}
        self.server.start([])
        self.server._loop.call_soon_threadsafe(self.server._loop.set_exception_handler, lambda loop, fault: self.faults.append(fault))

    def open(self) -> None:
        """Take a slot and accept. Not before the replicas are known: from now on clients come."""
        self.claim: SlotClaim = self._path.do(SlotClaim.claim(self._path.run_dir, self.name))
        self.server.take_lane(self.claim.slot)
        for listener in self.claim.listeners:
            self.server.listen(listener)
        loop = self._path.loop
        self.server.statistics_from(lambda model: asyncio.run_coroutine_threadsafe(self.claim.statistics(model), loop))
        loop.call_soon_threadsafe(self.claim.report_from, partial(asyncio.to_thread, self.server.report))
        self._path.start(self._follow())

    async def _follow(self) -> None:
        async for change in self.claim:
            if isinstance(change, Adopt):
                self._adopted[change.number] = await asyncio.to_thread(self.server.listen, change.listener)
            elif change.number in self._adopted:
                await asyncio.to_thread(self.server.unlisten, self._adopted.pop(change.number))

    def drain(self, timeout_s: float = 20.0) -> None:
        """Leave as a gateway does that is being replaced."""
        self.leaving = True
        self._path.loop.call_soon_threadsafe(self.claim.draining)
        self.server.drain(timeout_s)
        self.stop()

    def stop(self) -> None:
        self._path.do(self.claim.leave())
        self.server.stop()


class Teller:
    """The controller, as far as the desk knows it."""

    def __init__(self, path: DataPath) -> None:
        self._path = path
        self._one = threading.Lock()

    @property
    def shares_memory(self) -> bool:
        return self._path.shares_memory

    def wish(self, edit: Edit, tell: Tell = untold) -> Wishes:
        with self._one:
            wishes = self._path.book.edit(edit)
            self._path.tell()
            return wishes


class DataPath:
    """One node. Everything in it binds 127.0.0.1 and lies in a directory of its own."""

    def __init__(self, **edge: Any) -> None:
        # not tmp_path: its names can be too long for a Unix socket
        self.run_dir = tempfile.mkdtemp(prefix="path-")
        self.gate = Path(self.run_dir) / "gate"
        """While this file is there the models `gate` and `narrow` do not answer."""
        self.config = EdgeConfig(self.run_dir, free_port(), free_port(), free_port(), **edge)
        self.rest = f"127.0.0.1:{self.config.http_port}"
        self.grpc = f"127.0.0.1:{self.config.grpc_port}"
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.keeper = EdgeKeeper(self.config)
        self.keeper.start()
        self.members: list[Member] = []
        self.replicas: list[ReplicaHost] = []
        self._reporters: list[Reporter] = []
        self.limits = GatewayLimits()
        self.traffic: dict[str, Traffic] = {}
        """By model; the first version of each is the stable one."""
        self.shares_memory = False
        self.forward_headers = ""
        self.book = WishBook()
        self.desk = Desk(Path(self.run_dir) / DESK_SOCKET, handlers(Teller(self)))
        self.desk.start()
        self.access: AccessRules | None = None
        self._revision = 0

    def do(self, coroutine: Coroutine[Any, Any, Any], within_s: float = 60.0) -> Any:
        """Run it on the loop of the claims."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(within_s)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def replica(self, plan: HostPlan, name: str) -> ReplicaHost:
        """Start a replica and tell all gateways of it."""
        host = ReplicaHost(plan, name, self.run_dir)
        host.start()
        self.replicas.append(host)
        self.reporter("replica", name, host.samples)
        self.tell()
        return host

    def reporter(self, kind: str, name: str, samples: Callable[[], list[list[Any]]]) -> None:
        """Have a process that holds no slot report to the keeper."""

        async def read() -> list[list[Any]]:
            return samples()

        async def begin() -> None:
            self._reporters.append(Reporter(self.run_dir, kind, name, read))

        self.do(begin())

    def gateway(self, name: str) -> Member:
        """Start a gateway; it is ready, and the edge sends to it."""
        member = Member(self, name)
        self.members.append(member)
        self.tell()
        member.open()
        if self.config.needs_edge:
            wait_for(lambda: self.servers()[member.claim.slot] == "UP L7OK")
        return member

    def tell(self) -> None:
        """Give all gateways the routes and addresses that there are."""
        versions: dict[str, list[str]] = {}
        peers: dict[str, list[PeerAddress]] = {}
        for host in self.replicas:
            for version in host.plan.versions:
                if version.version not in versions.setdefault(version.model, []):
                    versions[version.model].append(version.version)
                peers.setdefault(version.key, []).append(PeerAddress(host.replica_id, **host.address))
        self._revision += 1
        routes = {model: Route(model, found[0], tuple(found), traffic=self.traffic.get(model, PLAIN)) for model, found in versions.items()}
        state = GatewayState(
            RouteTable(self._revision, routes),
            self.limits,
            "serving",
            client_shm=self.shares_memory,
            forward_headers=self.forward_headers,
            wishes=self.book.now,
            access=self.access,
        )
        for member in self.members:
            member.server.apply(state)
            member.server.set_peers(peers)
        for member in self.members:
            wait_for(lambda m=member: m.server.ready() or m.leaving)  # type: ignore[misc]

    def open_gate(self) -> None:
        """Let the models `gate` and `narrow` answer."""
        self.gate.unlink(missing_ok=True)

    def forget(self, host: ReplicaHost) -> None:
        """Stop a replica and take it out of what gateways are told."""
        self.replicas.remove(host)
        host.stop()

    def open(self, model: str, version: str = "1") -> int:
        """Return how many requests of the model the replicas hold, in the queue or running."""
        return self._sum("open", model, version)

    def queued(self, model: str, version: str = "1") -> int:
        """Return how many of them are in the queue."""
        return self._sum("queued", model, version)

    def _sum(self, what: str, model: str, version: str) -> int:
        return int(sum(host.statistics().get(f"{model}/{version}", {}).get(what, 0) for host in self.replicas))

    def servers(self) -> list[str]:
        """Return what HAProxy thinks of each slot; "UP L7OK" is one that takes traffic."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.config.path("haproxy.sock"))
            sock.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        rows = [line.split(",") for line in answer.decode().splitlines()]
        return [f"{row[17]} {row[36].removeprefix('* ')}" for row in rows if row[0] == "rest" and row[1].startswith("g")]

    def faults(self) -> list[dict[str, Any]]:
        return [fault for member in self.members for fault in member.faults]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it. No bug may have shown in a gateway's loop."""
        try:
            assert kind is not None or self.faults() == []
        finally:
            self.close()

    def close(self) -> None:
        self.open_gate()
        for member in self.members:
            member.stop()
        for reporter in self._reporters:
            self.do(reporter.close())
        for host in self.replicas:
            host.stop()
        self.desk.stop()
        self.keeper.close(0.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        shutil.rmtree(self.run_dir)
        quota_file(self.run_dir).unlink(missing_ok=True)
