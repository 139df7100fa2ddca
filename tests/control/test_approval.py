"""Changes that wait until somebody else agrees: through the control API, with keys, and what stands in the record then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.settings import AccessSettings
from serving.control import approval_api, plan_api, record_api
from serving.control.acceptance import Act
from serving.control.api import create_app
from serving.control.approval import Approvals, refuse_at_once
from serving.control.controller import Controller
from serving.control.event import Filter
from serving.control.guard import Guard
from serving.control.keyring import Keyring
from serving.control.runner import Runner
from serving.control.store import SqliteStore
from serving.errors import PermissionDenied
from serving.plan import EngineSettings, Target
from tests.control.fake_cluster import FakeClock, target
from tests.control.keyed_api import KeyedApi
from tests.control.test_api import EagerCluster

ACCESS = AccessSettings(True, approval=("prod-*", "mlp"))


def start() -> Target:
    return replace(target("mlp/1", "echo/1"), settings=EngineSettings(access=ACCESS), given=frozenset({"access"}))


class Office(KeyedApi):
    """A control API where changes of mlp and prod-* wait."""

    def __init__(self, folder: Path, forced: bool | None = None) -> None:
        self.store, clock = SqliteStore(folder / "state.db"), FakeClock()
        self.gone = ""
        self.ring = Keyring(self.store, folder, clock.now, forced)
        self.runner = Runner(Controller(EagerCluster(), self.store, clock, self.ring.rules))
        self.runner.change(lambda _: start(), Act("boss", "start"))
        self.approvals = Approvals(self.runner, self.store, clock.now, self._check, self.ring.settle)
        routers = [
            record_api.router(self.runner, self.store, lambda _: "", {}),
            approval_api.router(self.runner, self.approvals, {}),
            plan_api.router(self.runner, lambda _: target(), self.approvals.needed),
        ]
        guard = Guard(self.ring, lambda: self.runner.target.settings)
        app = create_app(self.runner, lambda _: target(), lambda: None, {"urls": {}}, routers, guard, self.approvals)
        self.serve(app)
        self.ring.rules(ACCESS)
        self.keys = self.make_keys({"dev": "deployer", "lead": "approver:mlp", "chief": "approver", "look": "viewer"})

    def _check(self, model: str, goal: Target) -> None:
        if self.gone:
            raise PermissionDenied(self.gone)

    async def ask(self, who: str, method: str, path: str, **body: Any) -> httpx.Response:
        return await self.send(who, method, path, json=body or ({} if method == "POST" else None))

    async def apply(self, who: str, *keys: str, **more: Any) -> httpx.Response:
        return await self.ask(who, "POST", "/api/apply", target=target(*keys).to_json(), **more)

    async def pending(self) -> list[int]:
        return [a["number"] for a in (await self.ask("look", "GET", "/api/approvals")).json()["approvals"]]

    @property
    def stable(self) -> dict[str, str]:
        return {name: route.stable for name, route in self.runner.target.routes.routes.items()}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    async with office:
        yield office


async def test_a_change_waits_until_somebody_else_agrees(office: Office) -> None:
    asked = await office.apply("dev", "mlp/2", reason="better", texts=[{"name": "m.yaml", "text": "models: …"}])
    assert asked.status_code == 202
    waits = asked.json()["approval"]
    assert (waits["number"], waits["state"], waits["author"], waits["models"]) == (1, "pending", "dev", ["mlp"])
    assert any("mlp" in effect for effect in waits["effects"])
    assert office.stable["mlp"] == "1"
    assert await office.pending() == [1]
    for who, status, said in (("look", 403, "role approver"), ("dev", 403, "role approver")):
        refused = await office.ask(who, "POST", "/api/approvals/1/approve")
        assert (refused.status_code, said in refused.json()["error"]) == (status, True)
    assert (await office.ask("look", "GET", "/api/approvals/1")).status_code == 403
    shown = (await office.ask("dev", "GET", "/api/approvals/1")).json()
    assert shown["files"] == [{"name": "m.yaml", "text": "models: …"}]
    given = await office.ask("lead", "POST", "/api/approvals/1/approve", reason="looks good", wait_s=20.0)
    assert given.status_code == 200, given.text
    assert given.json()["settled"]
    assert office.stable == {"mlp": "2", "echo": "1"}
    revision = office.store.latest()
    assert revision is not None
    assert (revision.author, revision.reason, revision.number) == ("dev", "better (plan 1, approved by lead)", given.json()["revision"])
    assert revision.files[0].name == "m.yaml"
    events = [(e.event.kind, e.event.who, e.event.why) for e in office.store.events(Filter(kind="approval"))]
    assert events == [("approval.asked", "dev", "better"), ("approval.given", "lead", "looks good")]
    assert all(e.event.what.startswith("plan 1: ") for e in office.store.events(Filter(kind="approval")))
    again = await office.ask("lead", "POST", "/api/approvals/1/approve")
    assert (again.status_code, again.json()["error"]) == (409, "plan 1 does not wait any more: approved by lead")
    assert office.store.verify().problem == ""


async def test_a_plan_says_that_it_has_to_be_approved(office: Office) -> None:
    for keys, needed in ((("mlp/2", "echo/2"), ["mlp"]), (("echo/2",), []), (("prod-x/1",), ["prod-x"])):
        planned = await office.ask("dev", "POST", "/api/plan", target=target(*keys).to_json())
        assert planned.json()["approval"] == needed


async def test_nobody_approves_their_own_and_a_role_is_for_its_models(office: Office) -> None:
    await office.apply("chief", "mlp/2")
    own = await office.ask("chief", "POST", "/api/approvals/1/approve")
    assert (own.status_code, own.json()["error"]) == (403, "'chief' has asked for plan 1; somebody else has to approve it")
    await office.apply("dev", "mlp/2", "prod-a/1")
    assert office.stable == {"mlp": "1", "echo": "1"}
    other = await office.ask("lead", "POST", "/api/approvals/2/approve")
    assert (other.status_code, other.json()["error"]) == (403, "'lead' needs the role approver for model 'prod-a'")
    assert (await office.ask("chief", "POST", "/api/approvals/2/approve")).status_code == 200
    assert office.stable == {"mlp": "2", "echo": "1", "prod-a": "1"}


async def test_what_is_not_named_changes_at_once_and_a_rollback_does_not_wait(office: Office) -> None:
    assert (await office.apply("dev", "echo/2", wait_s=20.0)).status_code == 200
    assert office.stable["echo"] == "2"
    await office.apply("dev", "mlp/2")
    assert (await office.ask("lead", "POST", "/api/approvals/1/approve", wait_s=20.0)).status_code == 200
    assert (await office.ask("dev", "POST", "/api/models/mlp/rollback", wait_s=20.0)).status_code == 200
    assert office.stable["mlp"] == "1"


async def test_a_plan_is_refused_when_its_models_have_moved_and_not_for_others(office: Office) -> None:
    await office.apply("dev", "mlp/2")
    await office.apply("dev", "mlp/3")
    await office.apply("dev", "echo/2")
    assert (await office.ask("lead", "POST", "/api/approvals/1/approve")).status_code == 200
    assert await office.pending() == []
    refused = await office.ask("lead", "POST", "/api/approvals/2/approve")
    assert (refused.status_code, refused.json()["error"]) == (409, "plan 2 does not wait any more: overtaken; ask for it again")
    assert office.stable == {"mlp": "2", "echo": "2"}
    assert (await office.ask("dev", "POST", "/api/models/mlp/rollback", wait_s=20.0)).status_code == 200
    assert await office.pending() == [], "even though mlp is again what it was when it was asked for"


async def test_a_plan_is_refused_when_files_have_changed_and_stays(office: Office) -> None:
    await office.apply("dev", "mlp/2")
    office.gone = "mlp.pt2 is another"
    assert (await office.ask("lead", "POST", "/api/approvals/1/approve")).status_code == 403
    assert office.stable["mlp"] == "1"
    assert await office.pending() == [1]


async def test_plans_are_rejected_or_withdrawn(office: Office) -> None:
    for _ in range(3):
        await office.apply("dev", "mlp/2")
    assert (await office.ask("look", "POST", "/api/approvals/1/reject")).status_code == 403
    assert (await office.ask("lead", "POST", "/api/approvals/1/reject", reason="no")).json()["approval"]["state"] == "rejected"
    assert (await office.ask("dev", "POST", "/api/approvals/2/reject")).status_code == 200
    assert await office.pending() == [3]
    assert (await office.ask("lead", "POST", "/api/approvals/1/approve")).status_code == 409
    assert (await office.ask("lead", "POST", "/api/approvals/9/approve")).status_code == 404
    assert office.stable["mlp"] == "1"
    kinds = [(e.event.kind, e.event.who) for e in office.store.events(Filter(kind="approval.refused"))]
    assert kinds == [("approval.refused", "lead"), ("approval.refused", "dev")]


async def test_a_delete_waits_and_a_client_cannot_unload(office: Office) -> None:
    assert (await office.ask("dev", "DELETE", "/api/models/mlp")).status_code == 202
    assert "mlp" in office.stable
    with pytest.raises(PermissionDenied, match="changes of 'mlp' need an approval"):
        refuse_at_once(office.approvals, "mlp")
    refuse_at_once(office.approvals, "echo")
    assert (await office.ask("chief", "POST", "/api/approvals/1/approve")).status_code == 200
    assert "mlp" not in office.stable


async def test_plans_survive_a_restart(office: Office, tmp_path: Path) -> None:
    await office.apply("dev", "mlp/2", reason="later")
    before = office.approvals.find(1)
    other = SqliteStore(tmp_path / "state.db")
    assert (other.approvals(["pending"], 10), other.approval(1), other.approval(2)) == ([before], before, None)
    other.close()


async def test_those_that_were_decided_come_in_pages(office: Office) -> None:
    for number in range(1, 6):
        await office.apply("dev", "mlp/2")
        await office.ask("lead", "POST", f"/api/approvals/{number}/reject")
    await office.apply("dev", "mlp/2")

    async def numbers(words: str) -> list[int]:
        answer = await office.ask("look", "GET", f"/api/approvals?{words}")
        return [a["number"] for a in answer.json()["approvals"]]

    assert await numbers("state=&limit=2") == [5, 6]
    assert await numbers("state=&limit=2&before=5") == [3, 4]
    assert await numbers("state=rejected&limit=3") == [3, 4, 5]
    assert await numbers("state=pending") == [6]
    await office.apply("chief", "mlp/3")
    await office.ask("lead", "POST", "/api/approvals/7/approve")
    assert (await numbers("state=overtaken"), await numbers("state=pending")) == ([6], [])
    for wrong in ("state=whatever", "limit=0", "limit=1001", "before=-1", f"before={1 << 64}"):
        assert (await office.ask("look", "GET", f"/api/approvals?{wrong}")).status_code == 400, wrong
    for number, status in ((99, 404), (1 << 64, 400)):
        assert (await office.ask("dev", "GET", f"/api/approvals/{number}")).status_code == status
        assert (await office.ask("dev", "GET", f"/api/revisions/{number}")).status_code == status
        assert (await office.ask("dev", "POST", "/api/models/mlp/rollback", to=number)).status_code == status


async def test_nothing_waits_while_access_is_off(tmp_path: Path) -> None:
    office = Office(tmp_path, forced=False)
    async with office:
        assert (await office.client.post("/api/apply", json={"target": target("mlp/2").to_json()})).status_code == 200
    refuse_at_once(office.approvals, "mlp")
    assert office.stable["mlp"] == "2"
