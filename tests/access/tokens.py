"""Key pairs, key sets and tokens for tests. Keys are made once: an RSA key takes 0.1 s."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_800_000_000.0


@cache
def private(kind: str, which: str = "") -> Any:
    """Return a private key; `which` tells several of a kind apart."""
    match kind:
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def jwk(kind: str, kid: str, which: str = "", **more: Any) -> dict[str, Any]:
    """Return the public key as a JSON Web Key."""
    algorithm = jwt.get_algorithm_by_name(kind)
    found: dict[str, Any] = algorithm.to_jwk(private(kind, which).public_key(), as_dict=True)  # type: ignore[call-overload]
    return {**found, "kid": kid, "use": "sig", **more}


def key_set(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


def token(kind: str = "ES256", kid: str | None = "one", which: str = "", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """Return a token that is good for ten minutes from NOW, unless its claims say otherwise; None leaves a claim out."""
    body = {"sub": "ann", "iss": "https://idp.test", "aud": "serving", "exp": NOW + 600, "roles": ["predictor"], **claims}
    body = {name: value for name, value in body.items() if value is not None}
    head = {**({} if kid is None else {"kid": kid}), **(headers or {})}
    return jwt.encode(body, private(kind, which), kind, headers=head)
