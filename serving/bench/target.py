"""Target: a server of the Open Inference Protocol that is to be measured: where it is, what it says of itself and of its models.

Knows no load. Its two forms, `RestTarget` and `GrpcTarget`, raise ServingErrors whose text a person can act on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from serving.bench.dial import Tls
from serving.errors import InvalidArgument, NotFound
from serving.spec.explain import nearest
from serving.tensor import ANY, DType, TensorSpec

Wire = Literal["rest", "grpc"]

_SCHEMES: dict[str, tuple[Wire | None, bool]] = {
    "http": (None, False),
    "https": (None, True),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
}
_PORTS = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens. `prefix` is what stands before `/v2` in its paths ("" or "/serving")."""

    host: str
    port: int
    protocol: Wire
    secure: bool = False
    prefix: str = ""
    tls: Tls = field(default_factory=Tls)

    @classmethod
    def parse(cls, url: str, protocol: Wire | None = None, tls: Tls | None = None) -> ServerAddress:
        """Return the address of `http://H:P`, `https://H:P/prefix`, `grpc://H:P`, `grpcs://H:P` or `H:P`.

        protocol: what to speak there; None: as the scheme says, REST for http. Raises InvalidArgument.
        """
        text = url if "://" in url else f"{'grpc' if protocol == 'grpc' else 'http'}://{url}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidArgument(f"'{url}' is not an address: {error}; expected http://HOST:PORT or grpc://HOST:PORT") from None
        if parts.scheme not in _SCHEMES or not host:
            raise InvalidArgument(f"'{url}' is not an address: expected http://HOST:PORT, https://…, grpc://…, grpcs://… or HOST:PORT")
        said, secure = _SCHEMES[parts.scheme]
        if said == "grpc" and protocol == "rest":
            raise InvalidArgument(f"'{url}' is the address of a gRPC server; leave --protocol rest out, or give http://HOST:PORT")
        speaks = protocol or said or "rest"
        prefix = parts.path.rstrip("/")
        if speaks == "grpc" and prefix:
            raise InvalidArgument(f"'{url}': a gRPC server has no path, expected grpc://{parts.netloc}")
        return cls(host, port or _PORTS[parts.scheme], speaks, secure, prefix.removesuffix("/v2"), tls or Tls())

    @property
    def netloc(self) -> str:
        """`HOST:PORT`, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as people write it."""
        scheme = ("grpc" if self.protocol == "grpc" else "http") + ("s" if self.secure else "")
        return f"{scheme}://{self.netloc}{self.prefix}"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]

    def has(self, extension: str) -> bool:
        return extension in self.extensions


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a server says of a model. Shapes are those of the wire: with the batch dimension, where there is one.

    version         the one that was asked for; "": whichever the server takes
    max_batch_size  None where the server does not tell (it has no model configuration); 0: no batch dimension
    decoupled       answers of a stream may be none or many per request
    """

    name: str
    version: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int | None = None
    decoupled: bool = False

    @property
    def batched(self) -> bool:
        """Whether the first dimension counts rows. Where the server does not tell: when it may have any size in all inputs."""
        if self.max_batch_size is not None:
            return self.max_batch_size > 0
        return bool(self.inputs) and all(spec.shape[:1] == (ANY,) for spec in self.inputs)

    def to_json(self) -> dict[str, Any]:
        def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
            return [{"name": s.name, "datatype": s.dtype.label, "shape": list(s.shape)} for s in specs]

        return {
            "name": self.name,
            "version": self.version,
            "versions": list(self.versions),
            "platform": self.platform,
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
            "max_batch_size": self.max_batch_size,
            "decoupled": self.decoupled,
        }


class Target(Protocol):
    """A server that answers to somebody with certain headers. Every method raises Unavailable where it cannot be reached."""

    address: ServerAddress

    def server(self) -> ServerInfo:
        """Return what the server says of itself. Raises InvalidArgument where something else answers."""

    def ready(self, model: str, version: str = "") -> bool: ...

    def model(self, name: str, version: str = "") -> ModelInfo:
        """Return what the server says of the model. Raises NotFound with the names that there are, where the server tells."""

    def statistics(self, model: str, version: str = "") -> list[dict[str, Any]] | None:
        """Return the entries of `model_stats`, one per version; None where the server has no statistics."""

    def infer(self, path: str, headers: tuple[tuple[str, str], ...], body: bytes) -> bytes:
        """Send one prediction as a load would and return the body of its answer. Raises the server's own words."""

    def close(self) -> None: ...


def model_info(name: str, version: str, said: dict[str, Any], config: dict[str, Any] | None) -> ModelInfo:
    """Return what metadata, and the configuration where there is one, say (both as JSON values)."""
    transaction = (config or {}).get("model_transaction_policy") or {}
    return ModelInfo(
        name,
        version,
        tuple(str(v) for v in said.get("versions") or ()),
        str(said.get("platform") or ""),
        _specs(name, said.get("inputs")),
        _specs(name, said.get("outputs")),
        int(config.get("max_batch_size") or 0) if config is not None else None,
        bool(transaction.get("decoupled", False)),
    )


def _specs(model: str, said: Any) -> tuple[TensorSpec, ...]:
    try:
        return tuple(TensorSpec(str(t["name"]), DType.of(t["datatype"]), tuple(int(d) for d in t["shape"])) for t in said or ())
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"the metadata of model '{model}' cannot be read ({type(error).__name__}: {error})") from None


def unknown_model(name: str, version: str, words: str, known: list[str]) -> NotFound:
    """Return the error for a model that the server does not have, with the names that it has."""
    said = f"the server has no model '{name}'{f' version {version}' if version else ''}: {words}"
    if name in known or not known:
        return NotFound(said)
    near = nearest(name, known)
    among = f"did you mean '{near}'? " if near else ""
    return NotFound(f"{said}; {among}it has {', '.join(sorted(known)[:20])}")


def unknown_asker(address: ServerAddress, words: str) -> InvalidArgument:
    """Return the error for a server that does not let us in."""
    return InvalidArgument(f"{address.url} wants another key than it was given ({words}): give --api-key KEY, or SERVING_API_KEY")


def index_names(index: Any) -> list[str]:
    """Return the names in a repository index, each once; [] for anything else."""
    entries = index if isinstance(index, list) else cast(list[Any], index.get("models", [])) if isinstance(index, dict) else []
    return list(dict.fromkeys(str(e["name"]) for e in entries if isinstance(e, dict) and "name" in e))
