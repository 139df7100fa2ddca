"""Keys and tokens as requests carry them, and who they stand for."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.credential import token_of
from serving.access.door import Door
from serving.access.identity import Grant, Identity, Quota, Role
from serving.access.key import KeyHash, digest_of, new_key, parts_of
from serving.access.settings import AccessRules, AccessSettings, JwtSettings
from serving.access.token import public_keys
from serving.errors import InvalidArgument, PermissionDenied, Unauthenticated

from .tokens import NOW, jwk, key_set, token

KEY, ID, DIGEST = new_key()
OLD, OLD_ID, OLD_DIGEST = new_key()
KEYS = (KeyHash(ID, DIGEST, "ci", ("predictor:mlp,digits-*",)), KeyHash(OLD_ID, OLD_DIGEST, "old", ("admin",), until=NOW))
RULES = AccessRules(KEYS, JwtSettings("", "https://idp.test", ("serving",)), public_keys(key_set(jwk("ES256", "one"))))


def basic(user: str, password: str) -> bytes:
    return b"Basic " + b64encode(f"{user}:{password}".encode())


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": f"Bearer {KEY}".encode()},
        {b"authorization": f"bearer  {KEY} ".encode()},
        {b"authorization": basic("anybody", KEY)},
        {b"authorization": basic("", KEY)},
        {b"x-api-key": KEY.encode()},
    ],
)
def test_a_key_is_known_however_it_is_sent(headers: dict[bytes, bytes]) -> None:
    found = Door(RULES).identify(headers, NOW)
    assert found.name == "ci"
    assert found.may(Role.predictor, "digits-7")
    assert not found.may(Role.predictor, "resnet")
    assert not found.may_all(Role.predictor)


def test_a_token_is_known_until_it_expires() -> None:
    door = Door(RULES)
    headers = {b"authorization": f"Bearer {token()}".encode()}
    assert door.identify(headers, NOW) is door.identify(headers, NOW + 1)
    with pytest.raises(Unauthenticated, match="expired"):
        door.identify(headers, NOW + 631)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "asks who you are"),
        ({b"authorization": b""}, "neither Bearer nor Basic"),
        ({b"authorization": b"Bearer"}, "empty"),
        ({b"authorization": b"Basic !!!"}, "base64"),
        ({b"authorization": b"Basic " + b64encode(b"no colon")}, "base64"),
        ({b"authorization": b"Digest x"}, "neither"),
        ({b"x-api-key": b"srv_short"}, "not an API key"),
        ({b"x-api-key": KEY[:-1].encode() + (b"a" if KEY[-1] != "a" else b"b")}, "not known"),
        ({b"x-api-key": new_key()[0].encode()}, "not known"),
        ({b"x-api-key": OLD.encode()}, "'old' has expired"),
        ({b"x-api-key": b"a" * 9000}, "longer than"),
        ({b"x-api-key": "schlüssel".encode()}, "ASCII"),
        ({b"authorization": b"Bearer nonsense", b"x-api-key": KEY.encode()}, "not valid"),
    ],
)
def test_others_are_told_what_is_wrong(headers: dict[bytes, bytes], said: str) -> None:
    with pytest.raises(Unauthenticated, match=said) as refused:
        Door(RULES).identify(headers, NOW)
    assert KEY not in refused.value.message
    assert DIGEST not in refused.value.message


def test_a_key_shows_its_secret_once() -> None:
    parts = parts_of(KEY)
    assert parts is not None
    assert digest_of(parts[1]) == DIGEST
    assert parts[1] not in repr(KEYS[0])
    assert len({new_key()[0] for _ in range(100)}) == 100


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_a_token_or_refused(authorization: bytes, key: bytes) -> None:
    for headers in ({b"authorization": authorization}, {b"x-api-key": key}, {b"authorization": b"Basic " + b64encode(authorization)}):
        try:
            assert token_of(headers)
        except Unauthenticated:
            continue


def test_the_door_remembers_a_bounded_number() -> None:
    door = Door(RULES)
    for i in range(3):
        door.identify({b"authorization": f"Bearer {token(jti=str(i))}".encode()}, NOW)
    assert len(door._known) == 3


@pytest.mark.parametrize("text", ["predictor", "deployer:mlp,digits-*", "admin:?"])
def test_a_grant_reads_as_it_is_written(text: str) -> None:
    assert str(Grant.of(text)) == text


@pytest.mark.parametrize(
    "text", ["", "king", "viewer:", "viewer:a,,b", "viewer:a b", "viewer:" + "x" * 200, "viewer:" + ",".join(map(str, range(300)))]
)
def test_what_is_no_grant_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Grant.of(text)


def test_a_role_includes_those_below_it_for_its_models() -> None:
    identity = Identity("ann", (Grant.of("deployer:mlp"), Grant.of("viewer")))
    identity.demand(Role.predictor, "mlp")
    identity.demand_all(Role.viewer)
    with pytest.raises(PermissionDenied, match="'ann' needs the role predictor for model 'resnet'"):
        identity.demand(Role.predictor, "resnet")
    with pytest.raises(PermissionDenied, match="needs the role deployer for all models"):
        identity.demand_all(Role.deployer)


def test_quotas_come_from_the_key_the_names_in_a_token_or_hold_for_all() -> None:
    assert RULES.jwt is not None
    jwt = replace(
        RULES.jwt, roles={}, quotas={"viewer": Quota(10.0, 5), "deployer": Quota(100.0, 0, 2), "admin": Quota(inflight_requests=4)}
    )
    own, plain = new_key(), new_key()
    keys = (KeyHash(own[1], own[2], "own", ("viewer",), requests_per_s=3.0), KeyHash(plain[1], plain[2], "plain", ("viewer",)))
    rules = replace(RULES, keys=keys, jwt=jwt, quota=Quota(7.0))
    assert AccessRules.from_json(json.loads(json.dumps(rules.to_json()))) == rules
    door = Door(rules)

    def quota(shown: str) -> Quota:
        return door.identify({b"authorization": f"Bearer {shown}".encode()}, NOW).quota

    assert quota(own[0]) == Quota(3.0)
    assert quota(plain[0]) == Quota(7.0)
    assert quota(token(roles=["viewer"])) == Quota(10.0, 5)
    # of several the widest, and no limit is the widest
    assert quota(token(roles=["viewer", "deployer"])) == Quota(100.0, 5)
    assert quota(token(roles=["admin", "deployer"])) == Quota(0.0, 0, 4)
    assert quota(token(roles=["approver"])) == Quota(7.0)
    assert rules.limits
    assert not RULES.limits
    assert not replace(RULES, jwt=replace(RULES.jwt, quotas={"a": Quota(burst=1)})).limits


def test_rules_and_settings_cross_as_json() -> None:
    assert AccessRules.from_json(RULES.to_json()) == RULES
    settings = AccessSettings(True, RULES.jwt)
    assert AccessSettings.from_json(settings.to_json()) == settings
    assert AccessSettings.from_json(AccessSettings().to_json()) == AccessSettings()
