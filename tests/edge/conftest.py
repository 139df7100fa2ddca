"""A running edge in a directory of its own, on ports of its own, with gateways in this process or in others."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.port import free_ports
from serving.edge import EdgeConfig, EdgeKeeper

from .fake_gateway import FakeGateway

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    return free_ports(1)[0]


async def eventually(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within the time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def spawn(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name(program)), *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


class Edge:
    """One keeper with its configuration, and all that was started around it."""

    def __init__(self, config: EdgeConfig) -> None:
        self.config = config
        self.keeper: EdgeKeeper | None = None
        self.gateways: list[FakeGateway] = []
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.config.http_port}"

    @property
    def edge(self) -> str:
        return f"http://127.0.0.1:{self.config.grpc_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.config.grpc_port}"

    async def start(self, **changes: object) -> Edge:
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]  # names are those of the fields
        self.keeper = EdgeKeeper(self.config)
        await asyncio.to_thread(self.keeper.start)
        return self

    async def gateway(self, name: str = "here") -> FakeGateway:
        """Return a gateway on this loop; it counts what it sees."""
        gateway = await FakeGateway(self.config.run_dir, name).start()
        self.gateways.append(gateway)
        return gateway

    async def process(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Return a process that has written its first line."""
        process = spawn(program, *arguments)
        self.processes.append(process)
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline), "the process ended before it was ready"
        return process

    async def gateway_process(self, name: str) -> subprocess.Popen[str]:
        return await self.process("fake_gateway.py", self.config.run_dir, name)

    async def keeper_process(self) -> subprocess.Popen[str]:
        config = self.config
        ports = (config.http_port, config.grpc_port, config.metrics_port)
        return await self.process("keeper_process.py", config.run_dir, *map(str, ports))

    async def up(self, count: int) -> None:
        """Return when HAProxy has checked all slots and sends to `count` of them."""
        async with asyncio.timeout(60):
            while (states := await self.servers()).count("UP L7OK") != count or any(s.endswith("INI") for s in states):
                await asyncio.sleep(0.01)

    async def servers(self) -> list[str]:
        """Return state and last check of each slot; "UP L7OK" is one that takes traffic."""
        rows = [line.split(",") for line in (await self.ask("show stat")).splitlines()]
        return [f"{row[17]} {row[36].removeprefix('* ')}" for row in rows if row[0] == "rest" and row[1].startswith("g")]

    async def ask(self, command: str) -> str:
        reader, writer = await asyncio.open_unix_connection(self.config.path("haproxy.sock"))
        writer.write(command.encode() + b"\n")
        answer = await reader.read(-1)
        writer.close()
        return answer.decode()

    async def close(self) -> None:
        for gateway in self.gateways:
            await gateway.close()
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self.keeper is not None:
            await asyncio.to_thread(self.keeper.close, 0.0)


@pytest.fixture
def run_dir() -> Iterator[str]:
    # not tmp_path: its names can be too long for a Unix socket
    path = tempfile.mkdtemp(prefix="edge-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def config(run_dir: str) -> EdgeConfig:
    return EdgeConfig(run_dir, free_port(), free_port(), free_port(), edge="grpc")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost with its key, in one PEM file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", f"{path}.key", "-out", str(path)], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return path


@pytest.fixture
async def edge(config: EdgeConfig) -> AsyncIterator[Edge]:
    edge = Edge(config)
    yield edge
    await edge.close()
