"""Scenario: what to send where, in which load, how often: all that a run needs, from a YAML file or from a command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serving.bench.dial import Tls
from serving.bench.encode import Encoding, Header
from serving.bench.load import Closed, Load
from serving.bench.target import ServerAddress, Wire
from serving.errors import InvalidArgument

Driver = Literal["raw", "triton", "triton-aio"]
"""raw: bytes made once, sent by our own HTTP. triton, triton-aio: tritonclient in threads or in a loop, which is what clients feel."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests for one model.

    name     its row in the report
    weight   its share of all requests, relative to the others'
    shapes   sizes of inputs that have any, by name, with or without the batch dimension
    input    file with inputs; None: random ones, `samples` different requests of them
    encoding None: binary, or JSON where a server refuses that and does not list binary tensors among its extensions
    expect   file with the outputs that belong to the rows of `input`
    outputs  asked for by name; (): all
    """

    model: str
    version: str = ""
    name: str = ""
    weight: float = 1.0
    batch_size: int = 1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    input: Path | None = None
    expect: Path | None = None
    encoding: Encoding | None = None
    outputs: tuple[str, ...] = ()
    samples: int = 16

    @property
    def label(self) -> str:
        """Its row in the report, where no name was given: model, version, and the batch where that is not one row."""
        version = f"/{self.version}" if self.version else ""
        return self.name or f"{self.model}{version}{f' x{self.batch_size}' if self.batch_size > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test.

    protocol   None: as the URL says, else REST
    streaming  ModelStreamInfer instead of single calls: gRPC, driver raw
    headers    sent with every request, such as an authorization
    pid        a process of the server, where it is on this machine; 0: found by its port
    """

    url: str
    requests: tuple[Asked, ...]
    load: Load = field(default_factory=lambda: Load(Closed(1)))
    name: str = ""
    protocol: Wire | None = None
    driver: Driver = "raw"
    streaming: bool = False
    tls: Tls = field(default_factory=Tls)
    headers: tuple[Header, ...] = ()
    slo_ms: float | None = None
    repetitions: int = 1
    pid: int = 0

    def address(self) -> ServerAddress:
        """Return where to send. Raises InvalidArgument, for what contradicts itself too."""
        if not self.url:
            raise InvalidArgument("no server is named: give --url http://HOST:PORT, or url in the scenario")
        address = ServerAddress.parse(self.url, self.protocol or ("grpc" if self.streaming and "://" not in self.url else None), self.tls)
        if self.streaming and (address.protocol != "grpc" or self.driver != "raw"):
            raise InvalidArgument("streams are a matter of gRPC and of the driver raw: give --protocol grpc, and no other --driver")
        if address.protocol == "grpc" and any(asked.encoding == "json" for asked in self.requests):
            raise InvalidArgument("JSON is a matter of REST; gRPC sends binary tensors")
        return address
