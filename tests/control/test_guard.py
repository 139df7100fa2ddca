"""The control API with access on: who may do what, under whose name, and what pages of other sites may not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.access.identity import Role
from serving.access.settings import AccessSettings
from serving.control import keys_api, record_api
from serving.control.api import create_app
from serving.control.controller import Controller
from serving.control.guard import Guard, need
from serving.control.keyring import Keyring
from serving.control.runner import Runner
from serving.control.store import SqliteStore
from serving.plan import EngineSettings
from tests.control.fake_cluster import FakeClock, target
from tests.control.keyed_api import KeyedApi
from tests.control.test_api import EagerCluster

NEEDS = [
    ("GET", "/api/status", (Role.viewer, "", False)),
    ("GET", "/api/target", (Role.deployer, "", False)),
    ("GET", "/api/revisions/3", (Role.deployer, "", False)),
    ("GET", "/api/keys", (Role.admin, "", True)),
    ("POST", "/api/keys", (Role.admin, "", True)),
    ("DELETE", "/api/keys/ci", (Role.admin, "", True)),
    ("POST", "/api/apply", (Role.deployer, "", False)),
    ("DELETE", "/api/models/mlp", (Role.deployer, "mlp", False)),
    ("POST", "/api/models/mlp/rollback", (Role.deployer, "mlp", False)),
    ("GET", "/api/approvals", (Role.viewer, "", False)),
    ("GET", "/api/approvals/7", (Role.deployer, "", False)),
    ("POST", "/api/approvals/7/approve", (Role.approver, "", False)),
    ("POST", "/api/approvals/7/reject", (Role.deployer, "", False)),
    ("POST", "/api/down", (Role.admin, "", True)),
    ("POST", "/api/whatever", (Role.admin, "", True)),
    ("PUT", "/anything", (Role.admin, "", True)),
]


@pytest.mark.parametrize(("method", "path", "expected"), NEEDS, ids=[f"{m} {p}" for m, p, _ in NEEDS])
def test_what_is_needed(method: str, path: str, expected: tuple[Role, str, bool]) -> None:
    assert need(method, path) == expected


class Office(KeyedApi):
    """A control API with access on, and keys for it."""

    def __init__(self, folder: Path) -> None:
        store, clock = SqliteStore(folder / "state.db"), FakeClock()
        self.ring = Keyring(store, folder, clock.now, forced=True)
        self.runner = Runner(Controller(EagerCluster(), store, clock, self.ring.rules))
        routers = [record_api.router(self.runner, store, lambda _: "", {}), keys_api.router(self.runner, self.ring)]
        guard = Guard(self.ring, lambda: self.runner.target.settings)
        app = create_app(self.runner, lambda _: target(), lambda: None, {"urls": {}}, routers, guard)
        self.serve(app)
        self.ring.rules(AccessSettings(True))
        boss = (folder / "admin.key").read_text().strip()
        self.keys = {"boss": boss} | self.make_keys({"look": "viewer", "mlp-team": "deployer:mlp", "ops": "deployer"})


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    async with office:
        yield office


async def test_nobody_learns_anything_without_a_key(office: Office) -> None:
    assert (await office.send("", "GET", "/api/ready")).status_code in (200, 503)
    for method, path in (
        ("GET", "/api/status"),
        ("POST", "/api/apply"),
        ("GET", "/api/openapi.json"),
        ("GET", "/nowhere"),
        ("POST", "/api/down"),
    ):
        refused = await office.send("", method, path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "x-api-key" in refused.json()["error"]
    assert (await office.client.get("/api/status", headers={"x-api-key": office.keys["look"]})).status_code == 200
    assert (await office.client.get("/api/status", auth=("me", office.keys["look"]))).status_code == 200


async def test_where_keys_are_asked_for_any_name_leads_here(office: Office) -> None:
    address = "http://models.example:8003/api/status"
    assert (await office.send("", "GET", address)).status_code == 401
    assert (await office.send("look", "GET", address)).status_code == 200


async def test_a_deployer_changes_its_own_models(office: Office) -> None:
    mlp, echo = {"target": target("mlp/1").to_json()}, {"target": target("echo/1").to_json()}
    assert (await office.send("look", "POST", "/api/apply", json=mlp)).status_code == 403
    assert (await office.send("ops", "POST", "/api/apply", json={**echo, "author": "somebody else"})).status_code == 200
    assert (await office.send("mlp-team", "POST", "/api/apply", json=mlp)).status_code == 200
    refused = await office.send("mlp-team", "POST", "/api/apply", json=echo | {"target": target("echo/2").to_json()})
    assert (refused.status_code, refused.json()["error"]) == (403, "'mlp-team' needs the role deployer for model 'echo'")
    assert (await office.send("mlp-team", "POST", "/api/apply", json={**mlp, "replace": True})).status_code == 403, "it would end echo"
    assert (await office.send("mlp-team", "DELETE", "/api/models/echo")).status_code == 403
    assert (await office.send("mlp-team", "DELETE", "/api/models/mlp")).status_code == 200
    events = (await office.send("look", "GET", "/api/events?kind=apply")).json()["events"]
    assert [(e["model"], e["who"]) for e in events] == [("echo", "ops"), ("mlp", "mlp-team")], (
        "who has been identified, not who it says to be"
    )


async def test_half_a_character_is_refused_and_nothing_is_kept(office: Office) -> None:
    for words in ({"reason": "\ud800"}, {"texts": [{"name": "\ud800", "text": ""}]}, {"texts": [{"name": "a", "text": "\ud800"}]}):
        order = json.dumps({"target": target("mlp/1").to_json(), **words}).encode()
        refused = await office.send("ops", "POST", "/api/apply", content=order, headers={"content-type": "application/json"})
        assert refused.status_code == 400, refused.text
    assert (await office.send("look", "GET", "/api/history")).json()["revisions"] == []
    assert (await office.send("ops", "POST", "/api/apply", json={"target": target("mlp/1").to_json()})).status_code == 200


async def test_settings_are_the_admins(office: Office) -> None:
    new = replace(target("mlp/1"), settings=EngineSettings(access=AccessSettings(False)), given=frozenset({"access"}))
    await office.send("ops", "POST", "/api/apply", json={"target": target("mlp/1").to_json()})
    other = replace(new, settings=EngineSettings(2, access=AccessSettings(True)), given=frozenset({"access", "gateways"}))
    refused = await office.send("ops", "POST", "/api/apply", json={"target": other.to_json()})
    assert (refused.status_code, refused.json()["error"]) == (403, "'ops' needs the role admin for all models")
    assert (await office.send("boss", "POST", "/api/apply", json={"target": other.to_json()})).status_code == 200


async def test_keys_are_made_and_ended_over_the_api(office: Office) -> None:
    assert (await office.send("ops", "GET", "/api/keys")).status_code == 403
    made = (await office.send("boss", "POST", "/api/keys", json={"name": "new", "grants": ["viewer"], "expires_s": 60})).json()
    assert made["everywhere"]
    office.keys["new"] = made["key"]
    assert (await office.send("new", "GET", "/api/status")).status_code == 200
    listed = (await office.send("boss", "GET", "/api/keys")).json()
    assert (listed["access"], {k["name"] for k in listed["keys"]}) == (True, {"admin", "look", "mlp-team", "ops", "new"})
    assert made["key"] not in str(listed)
    assert (await office.send("boss", "POST", "/api/keys", json={"name": "new", "grants": ["viewer"]})).status_code == 409
    ended = (await office.send("boss", "DELETE", "/api/keys/new")).json()
    assert (ended["state"], ended["everywhere"]) == ("revoked", True)
    assert (await office.send("new", "GET", "/api/status")).status_code == 401


async def test_a_page_of_another_site_changes_nothing_even_with_a_key(office: Office) -> None:
    headers = {"Authorization": f"Bearer {office.keys['boss']}", "Origin": "http://evil.test"}
    refused = await office.client.post("/api/keys", json={"name": "evil", "grants": ["admin"]}, headers=headers)
    assert refused.status_code == 403
    assert "another site" in refused.json()["error"]
    assert len(office.ring.all()) == 4
