"""EdgeConfig: all that the keeper of one node is told. A value; knows no files and no sockets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EdgeMode = Literal["auto", "grpc", "always", "off"]


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Ports, slots and certificates of one node's edge. Times in seconds. A port of 0 is not served.

    run_dir          private directory (0700) for sockets, the rendered configuration and the pid file
    host             the only address that is bound
    slots            gateways that can be served at the same time; also the number of listeners on each port. Twelve divide
                     evenly among 1, 2, 3, 4 and 6 gateways
    edge             auto: HAProxy where there is a certificate, else clients come straight to the gateways
                     grpc: gRPC through HAProxy, which spreads the calls of one connection over the gateways; REST straight
                     always: both through HAProxy; off: no HAProxy
    tls_*            paths of PEM files; with a certificate everything goes through HAProxy. tls_client_ca asks clients for theirs
    threads          of HAProxy; a second one brought nothing on two cores (64 connections, 2026-11)
    check_every_s    between two health checks of a gateway
    soft_stop_s      how long running streams may go on when HAProxy stops
    reclaim_s        how long a new keeper waits for the gateways of the one before it
    """

    run_dir: str
    http_port: int
    grpc_port: int
    metrics_port: int
    host: str = "127.0.0.1"
    slots: int = 12
    edge: EdgeMode = "auto"
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    threads: int = 1
    check_every_s: float = 0.25
    soft_stop_s: float = 30.0
    reclaim_s: float = 3.0

    @property
    def rest_through_edge(self) -> bool:
        """True where HAProxy owns the REST port, so that gateways get no TCP listener."""
        return self.edge == "always" or bool(self.tls_certificate)

    @property
    def grpc_through_edge(self) -> bool:
        """True where HAProxy owns the gRPC port."""
        return self.edge == "grpc" or self.rest_through_edge

    @property
    def needs_edge(self) -> bool:
        """True where the engine must not start without HAProxy."""
        return self.grpc_through_edge and self.edge != "off"

    def path(self, name: str) -> str:
        """Return the path of a file in the run directory."""
        return str(Path(self.run_dir) / name)

    def gateway_path(self, slot: int) -> str:
        """Return the path of a slot's Unix socket."""
        return self.path(f"gateway-{slot}.sock")


EDGE_SOCKET = "edge.sock"
"""Where gateways ask for a slot, in the run directory."""
HEALTH_PATH = "/edge/health"
CLIENT_HEADER = "x-serving-client"
