"""JSON Web Tokens, checked offline against a key set. Signatures are PyJWT's matter; which of them are taken, and until when, is ours.

Refused, whatever the key set says: algorithm `none`, HMAC with anything (a public key is no secret), a token without `exp`, without a
known `kid` where the set has several keys, with extensions that have to be understood (`crit`).
"""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

import jwt
from jwt.exceptions import PyJWKError, PyJWTError

from serving.access.identity import Grant, Identity, Quota
from serving.access.settings import ALGORITHMS, JwtSettings
from serving.errors import InvalidArgument, Unauthenticated

MAX_KEYS = 256
MAX_GRANTS = 64
MAX_NAME = 128
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
"""Members of a JSON Web Key that only its owner should have (RFC 7518 6)."""


def public_keys(text: str) -> str:
    """Return a key set as gateways get it: asymmetric keys for signatures, without private parts. Raises InvalidArgument."""
    try:
        found = json.loads(text)["keys"]
        keys = [{name: value for name, value in key.items() if name not in _PRIVATE} for key in found if _signs(key)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidArgument('not a JSON Web Key Set, expected {"keys": [...]}') from None
    if not keys:
        raise InvalidArgument("the key set has no public key for signatures (RSA, EC or OKP)")
    if len(keys) > MAX_KEYS:
        raise InvalidArgument(f"the key set has {len(keys)} keys, at most {MAX_KEYS} are taken")
    cleaned = json.dumps({"keys": keys}, sort_keys=True)
    _load(cleaned)
    return cleaned


def _signs(key: dict[str, Any]) -> bool:
    return key["kty"] in ("RSA", "EC", "OKP") and key.get("use", "sig") == "sig"


def _load(jwks: str) -> list[tuple[str, jwt.PyJWK]]:
    keys = []
    for key in json.loads(jwks)["keys"]:
        try:
            keys.append((str(key.get("kid", "")), jwt.PyJWK(key)))
        except (PyJWKError, PyJWTError, ValueError, TypeError, KeyError) as error:
            raise InvalidArgument(f"key '{str(key.get('kid', ''))[:80]}' of the key set cannot be used: {error}") from None
    return keys


class TokenVerifier:
    """Checks the tokens of one issuer."""

    def __init__(self, settings: JwtSettings, jwks: str) -> None:
        """jwks: what `public_keys` returned."""
        self._settings = settings
        self._algorithms = [name for name in settings.algorithms if name in ALGORITHMS]
        self._keys = _load(jwks)
        self._roles = {name: Grant.of(text) for name, text in settings.roles.items()}

    def identify(self, token: str, now: float) -> Identity:
        """Return whom the token stands for. now in seconds since 1970. Raises Unauthenticated that says what is wrong with it."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(
                token,
                self._key(header).key,
                algorithms=self._algorithms,
                audience=list(settings.audiences) or None,
                issuer=settings.issuer or None,
                # times are looked at below, against our clock
                options={
                    "require": ["exp"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": bool(settings.audiences),
                },
            )
        except (PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated(f"the token is not valid: {str(error)[:200]}") from None
        until = self._until(claims, now)
        name = claims.get(settings.name_claim)
        if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
            raise Unauthenticated(f"the token does not say whom it is for (claim '{settings.name_claim}')")
        names = self._names(claims)
        return Identity(name, self._grants(names), until, self._quota(names))

    def _key(self, header: dict[str, Any]) -> jwt.PyJWK:
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            raise Unauthenticated(f"the token is signed with '{str(algorithm)[:20]}', expected one of {', '.join(self._algorithms)}")
        if "crit" in header:
            raise Unauthenticated("the token has extensions that are not known here")
        fitting = [key for name, key in self._keys if kid is None or name == kid]
        if len(fitting) != 1:
            said = (
                "no kid, and the key set has several keys"
                if kid is None
                else f"kid '{str(kid)[:80]}', of which the key set has {len(fitting)}"
            )
            raise Unauthenticated(f"the token has {said}")
        if not _fits(fitting[0], str(algorithm)):
            raise Unauthenticated(f"the token is signed with '{algorithm}', its key is for {fitting[0].algorithm_name}")
        return fitting[0]

    def _until(self, claims: dict[str, Any], now: float) -> float:
        skew = self._settings.clock_skew_s
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        for name, value in times.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
                raise Unauthenticated(f"the token's '{name}' is not a time")
        if times["exp"] + skew <= now:
            raise Unauthenticated("the token has expired")
        if times.get("nbf", 0) - skew > now or times.get("iat", 0) - skew > now:
            raise Unauthenticated("the token does not hold yet")
        return float(times["exp"]) + skew

    def _names(self, claims: dict[str, Any]) -> list[str]:
        """Return the names in the role claim."""
        value: Any = claims
        for step in self._settings.role_claim.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        return [name for name in names[:MAX_GRANTS] if isinstance(name, str)]

    def _quota(self, names: list[str]) -> Quota:
        """Return the widest quota of these names."""
        found = [self._settings.quotas[name] for name in names if name in self._settings.quotas]
        return reduce(Quota.wider, found) if found else Quota()

    def _grants(self, names: list[str]) -> tuple[Grant, ...]:
        """Return what the names grant; those that mean nothing here are left out."""
        grants = []
        for name in names:
            if self._roles:
                grant = self._roles.get(name)
            else:
                try:
                    grant = Grant.of(name)
                except InvalidArgument:
                    grant = None
            if grant is not None:
                grants.append(grant)
        return tuple(dict.fromkeys(grants))


def _fits(key: jwt.PyJWK, algorithm: str) -> bool:
    """Whether a key may be used so: of the right kind, and for what it says itself (its curve, its `alg`)."""
    said = key.algorithm_name
    if said is None or said == algorithm:
        return True
    # PyJWK takes RS256 for an RSA key that does not say what it is for
    return key._jwk_data.get("alg") is None and key.key_type == "RSA" and algorithm[:2] in ("RS", "PS")
