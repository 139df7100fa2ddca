"""The face of `access:` and `tls:`, as pydantic models. Defaults come from the values that the engine works with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serving.access.settings import JwtSettings
from serving.spec.strict import Face

_jwt = JwtSettings()
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\-]{1,128}$")]
Name = Annotated[str, Field(min_length=1, max_length=512)]


class QuotaFace(Face):
    """What one caller may ask of the engine, of all its gateways together; one request more gets a 429."""

    requests_per_s: float = Field(default=0.0, ge=0, le=1e6, description="Predictions in a second. 0: no limit.", examples=[100])
    burst: int = Field(
        default=0, ge=0, le=1_000_000, description="Predictions that may come at once after a pause. 0: those of one second."
    )
    inflight_requests: int = Field(default=0, ge=0, le=1_000_000, description="Predictions under way. 0: no limit.")


class JwtFace(Face):
    """JSON Web Tokens of one issuer, checked without asking it: its public keys lie in a file."""

    jwks: Name = Field(
        description="Path of a JSON Web Key Set, relative to this YAML file. Read again when it changes.", examples=["idp-keys.json"]
    )
    issuer: Name = Field(description="The only issuer (iss) that is taken.", examples=["https://idp.example.com/realms/ml"])
    audience: Name | Annotated[list[Name], Field(min_length=1, max_length=64)] = Field(
        description="Whom tokens have to be for (aud): one name, or several of which one is enough.", examples=["serving"]
    )
    algorithms: list[Algorithm] = Field(
        default=["RS256", "ES256", "EdDSA"], min_length=1, description="Signatures that are taken. HMAC and none never are."
    )
    role_claim: Name = Field(
        default=_jwt.role_claim,
        description="Claim with the names of roles or groups; dots go deeper.",
        examples=["realm_access.roles", "groups"],
    )
    roles: dict[str, str] = Field(
        default_factory=dict,
        description="What each of these names grants: ROLE or ROLE:MODEL,MODEL with * as wildcard. Left out: they are roles themselves.",
        examples=[{"ml-team": "deployer:digits*", "staff": "viewer"}],
    )
    name_claim: Name = Field(default=_jwt.name_claim, description="Claim that names whom the token is for; events show it.")
    clock_skew_s: float = Field(default=_jwt.clock_skew_s, ge=0, le=600, description="By how many seconds clocks may differ.")
    quotas: dict[str, QuotaFace] = Field(
        default_factory=dict,
        description="What those may ask whose role claim has one of these names; who has several has the widest.",
        examples=[{"ml-team": {"requests_per_s": 500}}],
    )


class AccessFace(Face):
    """Who may ask and change what. Keys are made with `serving keys create`."""

    enabled: bool = Field(default=False, description="true: predictions and the control API ask for a key or a token.")
    jwt: JwtFace | None = Field(default=None, description="Tokens that are taken beside the engine's own keys.")
    approval: list[Pattern] = Field(
        default_factory=list,
        max_length=64,
        description="Models, with * and ? as wildcards, whose changes wait until somebody else with the role approver agrees: "
        "`serving approvals`, `approve`, `reject`. Only while access is on; rollbacks do not wait.",
        examples=[["digits", "prod-*"]],
    )
    quota: QuotaFace = Field(
        default_factory=QuotaFace,
        description="What each caller may ask that has no quota of its own: a key made without one, a token whose names have none.",
    )


class TlsFace(Face):
    """PEM files, relative to this YAML file. `serving certs` makes some."""

    certificate: str = Field(default="", description="Certificate of the server, with those that lead to its CA.", examples=["server.pem"])
    key: str = Field(default="", description="Its private key. Left out: it is in the same file.", examples=["server.key"])
    client_ca: str = Field(default="", description="CA of the clients; they then have to show a certificate of it.", examples=["ca.pem"])
