"""Boot: what one engine is told when it starts. A value; written by `serving up`, read by the engine's processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

from serving.access.settings import TlsSettings
from serving.control.ports import YamlText
from serving.plan import Target
from serving.tls import ServerCertificate

ModelControlMode = Literal["none", "explicit"]


@dataclass(frozen=True, slots=True)
class Boot:
    """One engine.

    host, *_port  what is bound; nothing else is
    state_dir     revisions and logs; outlives the engine
    run_dir       sockets; a short private path, made anew at each start
    ray_address   a Ray that is there, or "" for one of our own
    engine        tag of this start; every process of it has it in its environment as SERVING_ENGINE
    access        "on" or "off" whatever the YAML says, "": as it says
    tls_*         paths of PEM files; with a certificate every port speaks TLS
    started       when the command was given, on the machine's monotonic clock in seconds
    author        who gave it
    model_control "explicit": clients may load and unload models
    repositories  folders of models in Triton's layout
    life          1 for what a person has started; one more for each engine that went on in the same process when Ray had ended
    quick_ends    how many of these, without a longer one between them, were over soon after they were ready
    """

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    control_port: int
    state_dir: str
    run_dir: str
    ray_address: str
    engine: str
    started: float
    access: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    author: str = "up"
    model_control: ModelControlMode = "none"
    repositories: tuple[str, ...] = ()
    life: int = 1
    quick_ends: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        told = json.loads(text)
        return cls(**{**told, "repositories": tuple(told["repositories"])})

    def target(self) -> Target | None:
        """Return what the files say that `up` was given; None where it was given none: then the last revision runs again."""
        file = self.target_file
        return Target.from_json(json.loads(file.read_text())) if file.exists() else None

    def files(self) -> tuple[YamlText, ...]:
        """Return the text of the files that `up` was given."""
        file = self.texts_file
        return tuple(YamlText(name, text) for name, text in json.loads(file.read_text())) if file.exists() else ()

    @property
    def texts_file(self) -> Path:
        return Path(self.run_dir) / "files.json"

    def secured(self, tls: TlsSettings) -> Self:
        """Return the boot with the certificates of the settings, where the command gave none."""
        if self.tls_certificate or not tls.certificate:
            return self
        return replace(self, tls_certificate=tls.certificate, tls_key=tls.key, tls_client_ca=tls.client_ca)

    @property
    def certificate(self) -> ServerCertificate | None:
        """Return what a server of this engine shows, None without TLS. Raises InvalidArgument."""
        return ServerCertificate(self.tls_certificate, self.tls_key, self.tls_client_ca) if self.tls_certificate else None

    @property
    def access_forced(self) -> bool | None:
        return None if not self.access else self.access == "on"

    @property
    def target_file(self) -> Path:
        return Path(self.run_dir) / "target.json"

    @property
    def database(self) -> Path:
        return Path(self.state_dir) / "state.db"

    @property
    def logs(self) -> Path:
        return Path(self.state_dir) / "logs"

    @property
    def urls(self) -> dict[str, str]:
        host = f"[{self.host}]" if ":" in self.host else self.host
        tls = "s" if self.tls_certificate else ""
        http = f"http{tls}"
        return {
            "rest": f"{http}://{host}:{self.http_port}",
            "grpc": f"grpc{tls}://{host}:{self.grpc_port}",
            "metrics": f"{http}://{host}:{self.metrics_port}/metrics",
            "control": f"{http}://{host}:{self.control_port}",
        }


TAG = "SERVING_ENGINE"
RUN_PREFIX = "serving-"
"""How the name of each run directory begins."""
