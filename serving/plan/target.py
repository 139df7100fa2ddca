"""Target: what should run. Frozen values that the YAML is lowered to and the store keeps as revisions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from serving.access.settings import AccessSettings, TlsSettings
from serving.hosting import HostPlan, VersionPlan
from serving.routing import RouteTable
from serving.state import GatewayLimits

EdgeMode = Literal["auto", "grpc", "always", "off"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of events.

    secret_env, secret_file  where the secret is that signs them: a variable of the engine's environment, or a file; one of the two
    kinds                    of events ("rollback", "version"); () = all
    ca_file                  certificates that its own has to lead to; "" = those of the machine
    """

    url: str
    secret_env: str = ""
    secret_file: str = ""
    kinds: tuple[str, ...] = ()
    ca_file: str = ""

    @property
    def host(self) -> str:
        """Return who it is, without what a URL may hold of secrets."""
        return self.url.split("/")[2].rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What belongs to the engine and to no model.

    gateways   processes that speak REST and gRPC
    access     whether the engine asks who somebody is
    tls        certificates; taken when the engine starts, their files are read again when they change
    base_path  REST is served under this path, too
    forward_headers  pattern of the names of headers that become parameters of requests
    client_shared_memory  clients may have tensors in shared memory of this machine
    edge       auto: HAProxy only where there is TLS; grpc: gRPC goes through it, REST does not; always: both do; off: never
    """

    gateways: int = 1
    edge: EdgeMode = "auto"
    server_name: str = "serving"
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    access: AccessSettings = field(default_factory=AccessSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    client_shared_memory: bool = False
    forward_headers: str = ""
    base_path: str = ""
    webhooks: tuple[Webhook, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        value = {**value}
        access = AccessSettings.from_json(value.get("access", {"enabled": False}))
        tls = TlsSettings(**value.get("tls", {}))
        hooks = tuple(Webhook(**{**hook, "kinds": tuple(hook["kinds"])}) for hook in value.get("webhooks", ()))
        return cls(**{**value, "limits": GatewayLimits(**value["limits"]), "access": access, "tls": tls, "webhooks": hooks})


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    """One ModelVersion on replicas.

    plan              what each replica holds
    replicas          processes
    cpus, gpus        of one replica, as handed to Ray; a gpu may be a fraction
    accelerator_type  Ray's name of the accelerator ("A100"), or ""
    labels            labels that the node must have
    digest            of the contents of the artefact and the weights; a file edited in place is a new one
    """

    plan: VersionPlan
    replicas: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    accelerator_type: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    @property
    def key(self) -> str:
        return self.plan.key

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": HostPlan((self.plan,)).to_json()["versions"][0],
            "replicas": self.replicas,
            "cpus": self.cpus,
            "gpus": self.gpus,
            "accelerator_type": self.accelerator_type,
            "labels": dict(self.labels),
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        plan = HostPlan.from_json({"versions": [value["plan"]], "revision": 0}).versions[0]
        return cls(**{**value, "plan": plan, "labels": dict(value["labels"])})


@dataclass(frozen=True, slots=True)
class Shelf:
    """Models as they are declared that do not run so: a client has unloaded them, or loaded them with another configuration."""

    deployments: tuple[DeploymentTarget, ...] = ()
    routes: RouteTable = field(default_factory=RouteTable)

    def without(self, models: Collection[str]) -> Shelf:
        """Return the shelf without models of these names."""
        kept = {name: route for name, route in self.routes.routes.items() if name not in models}
        return Shelf(tuple(d for d in self.deployments if d.plan.model not in models), RouteTable(0, kept))

    def to_json(self) -> dict[str, Any]:
        return {"deployments": [d.to_json() for d in self.deployments], "routes": self.routes.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(DeploymentTarget.from_json(d) for d in value["deployments"]), RouteTable.from_json(value["routes"]))


@dataclass(frozen=True, slots=True)
class Target:
    """Everything that should run. Each key stands once in `deployments`; each version of a route is one of them.

    routes        at revision 0: the controller numbers what it publishes
    descriptions  words for people, by model name ("mlp") and by version key ("mlp/2")
    given         settings that the files state, by name: applying the target changes these and leaves the others
    shelf         models that clients have unloaded or loaded otherwise, as they are declared
    """

    settings: EngineSettings = field(default_factory=EngineSettings)
    deployments: tuple[DeploymentTarget, ...] = ()
    routes: RouteTable = field(default_factory=RouteTable)
    descriptions: dict[str, str] = field(default_factory=dict)
    given: frozenset[str] = field(default=frozenset(), compare=False)
    shelf: Shelf = field(default_factory=Shelf)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_json(),
            "deployments": [d.to_json() for d in self.deployments],
            "routes": self.routes.to_json(),
            "descriptions": dict(self.descriptions),
            "given": sorted(self.given),
            "shelf": self.shelf.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            EngineSettings.from_json(value["settings"]),
            tuple(DeploymentTarget.from_json(d) for d in value["deployments"]),
            RouteTable.from_json(value["routes"]),
            dict(value["descriptions"]),
            frozenset(value.get("given", ())),
            Shelf.from_json(value["shelf"]) if "shelf" in value else Shelf(),
        )
