"""`access:` and `tls:` in YAML: what they become, and what is wrong with them, with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.access.identity import Quota
from serving.access.settings import AccessSettings, JwtSettings, TlsSettings
from serving.plan import EngineSettings
from serving.spec import InvalidSpec, Source, parse
from tests.access.tokens import jwk, key_set

MODEL = "models:\n  m:\n    versions: {1: {artefact: m.pt2}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.pt2").write_bytes(b"x")
    (tmp_path / "idp.json").write_text(key_set(jwk("ES256", "one")))
    (tmp_path / "no.json").write_text("{}")
    return tmp_path


def settings(folder: Path, text: str) -> EngineSettings:
    return parse([Source("f.yaml", text + MODEL, folder)]).settings


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidSpec) as invalid:
        settings(folder, text)
    return [str(p) for p in invalid.value.problems]


def test_access_is_off_unless_it_is_switched_on(folder: Path) -> None:
    assert settings(folder, "").access == AccessSettings()
    assert settings(folder, "access: {enabled: true}\n").access == AccessSettings(True)


def test_tokens_of_an_issuer(folder: Path) -> None:
    text = "access: {enabled: true, jwt: {jwks: idp.json, issuer: i, audience: serving, role_claim: groups, roles: {a: 'deployer:m*'}}}\n"
    jwt = JwtSettings(str(folder / "idp.json"), "i", ("serving",), role_claim="groups", roles={"a": "deployer:m*"})
    found = settings(folder, text)
    assert found.access == AccessSettings(True, jwt)
    assert EngineSettings.from_json(found.to_json()) == found


def test_quotas_of_callers_and_of_names_in_tokens(folder: Path) -> None:
    jwt = "jwt: {jwks: idp.json, issuer: i, audience: a, quotas: {team: {requests_per_s: 5.5, burst: 7}}}"
    found = settings(folder, f"access: {{enabled: true, quota: {{inflight_requests: 3}}, {jwt}}}\n").access
    assert found.quota == Quota(inflight_requests=3)
    assert found.jwt is not None
    assert found.jwt.quotas == {"team": Quota(5.5, 7)}
    assert AccessSettings.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_models_whose_changes_need_an_approval(folder: Path) -> None:
    assert settings(folder, "access: {enabled: true, approval: [digits, prod-*]}\n").access.approval == ("digits", "prod-*")
    assert "access.approval[0]" in problems(folder, "access: {approval: ['a b']}\n")[0]


def test_settings_of_an_older_release_have_neither() -> None:
    old = EngineSettings().to_json()
    del old["access"], old["tls"]
    assert EngineSettings.from_json(old) == EngineSettings(access=AccessSettings(), tls=TlsSettings())


JWT = "access:\n  jwt:\n    issuer: i\n    audience: a\n"
WRONG = [
    ("access: {enabled: 1}\n", "f.yaml:1:19: access.enabled"),
    (JWT, "f.yaml:2:3: access.jwt: 'jwks' is missing"),
    (JWT + "    jwks: gone.json\n", "f.yaml:5:11: access.jwt.jwks"),
    (JWT + "    jwks: no.json\n", "not a JSON Web Key Set"),
    (JWT + "    jwks: idp.json\n    algorithms: [HS256]\n", "f.yaml:6:18: access.jwt.algorithms[0]"),
    (JWT + "    jwks: idp.json\n    roles: {a: king}\n", "'king' is not a role"),
    ("tls: {key: a.pem}\n", "without tls.certificate"),
    ("tls: {certificate: gone.pem}\n", "cannot be used: no such file"),
    ("tls: {certificate: idp.json}\n", "cannot be used: "),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text.split("\n")[-2][:40] + str(i) for i, (text, _) in enumerate(WRONG)])
def test_what_is_wrong_is_told_with_its_place(folder: Path, text: str, said: str) -> None:
    found = problems(folder, text)
    assert len(found) == 1
    assert said.lower() in found[0].lower()
