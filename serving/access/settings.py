"""AccessSettings, TlsSettings: what the YAML says. AccessRules: what a gateway is told. Values only, no secrets among them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from serving.access.identity import NO_QUOTA, Quota
from serving.access.key import KeyHash

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that can be made with a private key only. HMAC (HS256 …) is no choice: with it every gateway could make tokens."""


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """Which JSON Web Tokens are taken.

    jwks          path of a JSON Web Key Set (RFC 7517) with public keys
    issuer        the only `iss`
    audiences     one of them has to be in `aud`
    algorithms    signatures that are taken
    role_claim    the claim with names of roles or groups, a text or a list; dots go deeper ("realm_access.roles")
    roles         what each of these names grants ("ml-team": "deployer:digits*"). Empty: names are roles themselves
    name_claim    the claim that names whom the token is for
    clock_skew_s  by how much clocks may differ
    quotas        what those may ask whose role claim has one of these names; of several the widest
    """

    jwks: str = ""
    issuer: str = ""
    audiences: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    role_claim: str = "roles"
    roles: dict[str, str] = field(default_factory=dict)
    name_claim: str = "sub"
    clock_skew_s: float = 30.0
    quotas: dict[str, Quota] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        quotas = {name: Quota(**quota) for name, quota in value.get("quotas", {}).items()}
        return cls(**{**value, "audiences": tuple(value["audiences"]), "algorithms": tuple(value["algorithms"]), "quotas": quotas})


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Whether the engine asks who somebody is, and whose tokens it takes beside its own keys. quota: of who has none of their own.
    approval: models, with * and ? as wildcards, whose changes wait until an approver agrees."""

    enabled: bool = False
    jwt: JwtSettings | None = None
    quota: Quota = NO_QUOTA
    approval: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        jwt = value.get("jwt")
        quota, approval = Quota(**value.get("quota", {})), tuple(value.get("approval", ()))
        return cls(value["enabled"], None if jwt is None else JwtSettings.from_json(jwt), quota, approval)


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Paths of PEM files. key "": it is in the certificate's file. client_ca: clients have to show a certificate of this CA."""

    certificate: str = ""
    key: str = ""
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Everything that a check needs: keys that hold, and the text of the key set for tokens. In a GatewayState: access is on."""

    keys: tuple[KeyHash, ...] = ()
    jwt: JwtSettings | None = None
    jwks: str = ""
    quota: Quota = NO_QUOTA

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def limits(self) -> bool:
        """Whether anybody may have a quota."""
        return bool(self.quota or any(map(bool, self.jwt.quotas.values() if self.jwt else ())) or any(k.identity.quota for k in self.keys))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        jwt = value["jwt"]
        keys = tuple(map(KeyHash.from_json, value["keys"]))
        return cls(keys, None if jwt is None else JwtSettings.from_json(jwt), value["jwks"], Quota(**value.get("quota", {})))
