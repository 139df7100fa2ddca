"""Tokens that are taken, and the many that are not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from serving.access.identity import Role
from serving.access.settings import JwtSettings
from serving.access.token import TokenVerifier, public_keys
from serving.errors import InvalidArgument, Unauthenticated

from .tokens import NOW, jwk, key_set, private, token

SETTINGS = JwtSettings("keys.json", "https://idp.test", ("serving", "other"), ("RS256", "ES256", "EdDSA"))
SET = public_keys(key_set(jwk("ES256", "one"), jwk("RS256", "two"), jwk("EdDSA", "three")))
VERIFIER = TokenVerifier(SETTINGS, SET)


VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


@pytest.mark.parametrize(("kind", "kid"), [("ES256", "one"), ("RS256", "two"), ("EdDSA", "three")])
def test_a_good_token_says_who_it_is(kind: str, kid: str) -> None:
    found = VERIFIER.identify(token(kind, kid), NOW)
    assert (found.name, found.until) == ("ann", NOW + 630)
    assert found.may(Role.predictor, "mlp")
    assert not found.may(Role.deployer)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("expired", {"exp": NOW - 31}, "has expired"),
    ("no end", {"exp": None}, "exp"),
    ("not yet", {"nbf": NOW + 31}, "does not hold yet"),
    ("from the future", {"iat": NOW + 31}, "does not hold yet"),
    ("issuer", {"iss": "https://evil.test"}, "ssuer"),
    ("no issuer", {"iss": None}, "iss"),
    ("audience", {"aud": "elsewhere"}, "udience"),
    ("no audience", {"aud": None}, "aud"),
    ("nobody", {"sub": None}, "whom it is for"),
    ("odd name", {"name": "x", "sub": "a\nb"}, "whom it is for"),
    ("time as text", {"exp": "soon"}, "not a time"),
    ("time without end", {"exp": 1e300}, "not a time"),
]


@pytest.mark.parametrize(("claims", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_token_that_says_wrong_things_is_refused(claims: dict[str, Any], said: str) -> None:
    with pytest.raises(Unauthenticated, match=said):
        VERIFIER.identify(token(**claims), NOW)


def test_clocks_may_differ_by_the_skew() -> None:
    assert VERIFIER.identify(token(exp=NOW - 29, nbf=NOW + 29), NOW).until == NOW + 1


def test_a_signature_of_another_key_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="ignature"):
        VERIFIER.identify(token("ES256", "one", which="stranger"), NOW)


def test_no_signature_is_no_signature() -> None:
    head = encode(json.dumps({"alg": "none", "typ": "JWT", "kid": "one"}).encode())
    body = token().split(".")[1]
    for forged in (f"{head}.{body}.", f"{head}.{body}.{token().split('.')[2]}"):
        with pytest.raises(Unauthenticated, match="signed with 'none'"):
            VERIFIER.identify(forged, NOW)


def test_a_public_key_is_no_shared_secret() -> None:
    """The old trick: HS256 with the public key as its secret."""
    public = private("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = encode(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "two"}).encode())
    signed = f"{head}.{token('RS256', 'two').split('.')[1]}"
    forged = f"{signed}.{encode(hmac.new(public, signed.encode(), hashlib.sha256).digest())}"
    with pytest.raises(Unauthenticated, match="signed with 'HS256'"):
        VERIFIER.identify(forged, NOW)
    # not even where somebody has written it into the settings
    with pytest.raises(Unauthenticated, match="signed with 'HS256'"):
        TokenVerifier(replace(SETTINGS, algorithms=("HS256", "RS256")), SET).identify(forged, NOW)


def test_a_key_is_for_one_algorithm() -> None:
    with pytest.raises(Unauthenticated, match="its key is for ES256"):
        VERIFIER.identify(token("RS256", "one"), NOW)


def test_extensions_that_must_be_understood_are_refused() -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.identify(token(headers={"crit": ["exp"]}), NOW)


def test_a_key_id_chooses_the_key() -> None:
    with pytest.raises(Unauthenticated, match="kid 'four'"):
        VERIFIER.identify(token(kid="four"), NOW)
    with pytest.raises(Unauthenticated, match="no kid"):
        VERIFIER.identify(token(kid=None), NOW)
    only = TokenVerifier(SETTINGS, public_keys(key_set(jwk("ES256", "one"))))
    assert only.identify(token(kid=None), NOW).name == "ann"


def test_roles_come_from_a_claim_however_deep() -> None:
    nested = replace(SETTINGS, role_claim="realm_access.roles", roles={"ml-team": "deployer:digits*", "staff": "viewer"})
    found = TokenVerifier(nested, SET).identify(token(roles=None, realm_access={"roles": ["ml-team", "staff", "admin", 7]}), NOW)
    assert found.may(Role.deployer, "digits-2")
    assert not found.may(Role.deployer, "mlp")
    assert found.may(Role.viewer, "mlp")
    assert not found.may(Role.admin), "a name that the map does not have grants nothing"


@pytest.mark.parametrize("roles", [None, 5, {"a": 1}, ["nothing"], []])
def test_a_token_without_roles_may_do_nothing(roles: Any) -> None:
    assert VERIFIER.identify(token(roles=roles), NOW).grants == ()


def test_private_keys_never_leave_the_controller() -> None:
    secret = {**jwk("ES256", "one"), "d": "c2VjcmV0"}
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "h"}
    cleaned = public_keys(key_set(secret, symmetric, jwk("RS256", "e", use="enc")))
    assert [key["kid"] for key in json.loads(cleaned)["keys"]] == ["one"]
    assert "c2VjcmV0" not in cleaned


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": 3}', '{"keys": []}', '{"keys": [{"kty": "EC"}]}', '{"keys": [{"kty": "oct", "k": "aa"}]}']
)
def test_what_is_no_key_set_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        public_keys(text)


@given(st.one_of(st.text(max_size=300), st.lists(st.text(max_size=60), min_size=3, max_size=3).map(".".join)))
def test_any_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.identify(text, NOW)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "x5u"]), VALUES))
def test_any_header_is_refused_in_words(header: dict[str, Any]) -> None:
    body, signature = token().split(".")[1:]
    with pytest.raises(Unauthenticated):
        VERIFIER.identify(f"{encode(json.dumps(header).encode())}.{body}.{signature}", NOW)
