"""The control API, from its HTTP side, with a cluster of paper behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import httpx
import pytest

from serving.control import plan_api, record_api
from serving.control.acceptance import Act
from serving.control.api import create_app
from serving.control.controller import Controller
from serving.control.order import File
from serving.control.runner import Runner
from serving.control.shelving import unloaded
from serving.errors import SpecError
from serving.plan import DeploymentTarget, Target
from tests.control.fake_cluster import FakeClock, FakeCluster, FakeStore, target


class EagerCluster(FakeCluster):
    """Everything comes up at once."""

    def observe(self):  # type: ignore[no-untyped-def]
        self.gateways = {"a"}
        for key, v in list(self.versions.items()):
            if v.starting:
                self.come_up(key)
            elif v.stopping:
                self.go(key)
        return super().observe()


def _parse(files: list[File]) -> Target:
    if "wrong" in files[0].text:
        raise SpecError(f"{files[0].name}:1:1: wrong")
    return target(*files[0].text.split())


@pytest.fixture
def ended() -> list[bool]:
    return []


@pytest.fixture
def broken() -> list[str]:
    """Versions whose files are no longer what they were."""
    return []


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def runner(store: FakeStore) -> Iterator[Runner]:
    runner = Runner(Controller(EagerCluster(), store, FakeClock()))
    runner.start()
    yield runner
    runner.stop()


@pytest.fixture
async def client(ended: list[bool], broken: list[str], store: FakeStore, runner: Runner) -> AsyncIterator[httpx.AsyncClient]:
    about = {"urls": {"rest": "http://127.0.0.1:8000"}}
    record = record_api.router(runner, store, lambda d: "it has changed" if d.key in broken else "", about)
    app = create_app(runner, _parse, lambda: ended.append(True), about, [record, plan_api.router(runner, _parse)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8003") as client:
        yield client


async def test_apply_answers_when_every_gateway_has_the_routes(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/api/apply", json={"target": target("mlp/1").to_json(), "wait_s": 10})).json()
    assert (answer["revision"], answer["settled"], answer["ready"]) == (1, True, True)
    assert answer["gateways"] == [{"gateway": "a", "revision": answer["published"]}]
    assert [(v["model"], v["state"]) for v in answer["versions"]] == [("mlp", "ready")]
    assert (await client.get("/api/ready")).status_code == 200


async def test_apply_keeps_other_models_and_replace_does_not(client: httpx.AsyncClient) -> None:
    await client.post("/api/apply", json={"target": target("mlp/1").to_json()})
    await client.post("/api/apply", json={"target": target("echo/1").to_json()})
    assert Target.from_json((await client.get("/api/target")).json()) == target("mlp/1", "echo/1")
    await client.post("/api/apply", json={"target": target("echo/1").to_json(), "replace": True})
    assert Target.from_json((await client.get("/api/target")).json()) == target("echo/1")


async def test_yaml_texts_are_taken_and_their_errors_given_back(client: httpx.AsyncClient) -> None:
    assert (await client.post("/api/apply", json={"files": [{"name": "a.yaml", "text": "mlp/1"}]})).status_code == 200
    refused = await client.post("/api/apply", json={"files": [{"name": "a.yaml", "text": "wrong"}]})
    assert (refused.status_code, refused.json()) == (400, {"error": "a.yaml:1:1: wrong"})


async def test_a_path_that_there_is_not_is_told_like_every_error(client: httpx.AsyncClient) -> None:
    unknown, wrong = await client.get("/api/stats"), await client.put("/api/status")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"error": "Method Not Allowed"})
    assert wrong.headers["allow"] == "GET"


async def test_a_model_is_deleted_once(client: httpx.AsyncClient) -> None:
    await client.post("/api/apply", json={"target": target("mlp/1", "echo/1").to_json(), "wait_s": 10})
    assert (await client.delete("/api/models/mlp", params={"wait_s": 10})).json()["settled"]
    again = await client.delete("/api/models/mlp")
    assert (again.status_code, again.json()) == (404, {"error": "there is no model 'mlp' (models: echo)"})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "give 'target' or 'files'"),
        ({"target": {"settings": 1}}, "'target' is not a Target"),
        ({"tarjet": {}}, "tarjet: Extra inputs are not permitted"),
        ({"files": [], "wait_s": -1}, "wait_s: Input should be greater than or equal to 0"),
    ],
)
async def test_a_wrong_body_says_what_is_wrong(client: httpx.AsyncClient, body: dict[str, object], error: str) -> None:
    answer = await client.post("/api/apply", json=body)
    assert answer.status_code == 400
    assert error in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8003"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "evil.example:8003"}, 403),
        ({"host": "localhost:8003"}, 200),
        ({"host": "evil.example:8003", "x-forwarded-proto": "https"}, 403),
        ({"host": "[::1"}, 400),
        ({"origin": "http://[::1"}, 400),
        ({"transfer-encoding": "chunked"}, 411),
        ({"content-length": str(1 << 40)}, 413),
    ],
)
async def test_another_site_cannot_end_the_engine(
    client: httpx.AsyncClient, ended: list[bool], headers: dict[str, str], status: int
) -> None:
    assert (await client.post("/api/down", json={}, headers=headers)).status_code == status
    assert ended == [True] * (status == 200)


async def test_another_name_cannot_even_read(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/status", headers={"host": "rebound.example"})).status_code == 403


async def test_over_tls_the_certificate_has_said_whose_name_it_is(client: httpx.AsyncClient) -> None:
    assert (await client.get("https://models.example:8003/api/status")).status_code == 200
    across = {"origin": "https://evil.example"}
    assert (await client.post("https://models.example:8003/api/down", json={}, headers=across)).status_code == 403


async def test_a_plan_names_its_base_and_an_apply_onto_another_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/api/apply", json={"target": target("mlp/1").to_json(), "wait_s": 10})
    plan = (await client.post("/api/plan", json={"target": target("mlp/2").to_json()})).json()
    assert plan["changes"][0]["effect"] == "mlp/2 starts on 1 replica"
    assert plan["base"]["revision"] == 1
    order = {"target": target("mlp/2").to_json(), "expect": plan["base"]["fingerprint"]}
    await client.post("/api/apply", json={"target": target("echo/1").to_json()})
    refused = await client.post("/api/apply", json=order)
    assert (refused.status_code, refused.json()["error"][:47]) == (409, "the engine is no longer what the plan was made ")
    await client.delete("/api/models/echo")
    assert (await client.post("/api/apply", json=order)).status_code == 200


async def test_a_model_goes_back_and_its_history_and_events_say_who_and_why(client: httpx.AsyncClient) -> None:
    for keys in (["mlp/1", "mlp/2"], ["mlp/1", "mlp/2", "mlp/3"]):
        files = [{"name": "a.yaml", "text": " ".join(keys)}]
        await client.post("/api/apply", json={"files": files, "author": "ann", "reason": "better", "wait_s": 10})
    back = (await client.post("/api/models/mlp/rollback", json={"author": "bob", "reason": "worse", "wait_s": 10})).json()
    assert (back["revision"], back["to"], back["stable"], back["answering"]) == (3, 1, "2", {"mlp": "2"})
    found = (await client.get("/api/history", params={"model": "mlp"})).json()["revisions"]
    assert [(r["revision"], r["author"], r["reason"]) for r in found] == [(3, "bob", "worse"), (2, "ann", "better"), (1, "ann", "better")]
    assert (await client.get("/api/revisions/2")).json()["files"] == [{"name": "a.yaml", "text": "mlp/1 mlp/2 mlp/3"}]
    events = (await client.get("/api/events", params={"kind": "rollback"})).json()["events"]
    assert [(e["who"], e["why"], e["model"], e["revision"]) for e in events] == [("bob", "worse", "mlp", 3)]
    assert (await client.get("/api/events/verify")).json()["intact"]
    assert (await client.get("/api/revisions/9")).status_code == 404


async def test_a_model_that_was_unloaded_goes_back_to_what_was_declared_then(client: httpx.AsyncClient, runner: Runner) -> None:
    for keys in (["mlp/1"], ["mlp/2"]):
        await client.post("/api/apply", json={"target": target(*keys).to_json(), "wait_s": 10})
    runner.change(lambda now: unloaded(now, "mlp", keep=True), Act("client", "unload mlp"))
    assert [d.key for d in runner.target.shelf.deployments] == ["mlp/2"]
    assert (await client.post("/api/models/mlp/rollback", json={"to": 1})).status_code == 200
    assert ([d.key for d in runner.target.deployments], runner.target.shelf.deployments) == (["mlp/1"], ())


async def test_an_answer_means_that_every_gateway_has_the_edit(client: httpx.AsyncClient) -> None:
    both = target("mlp/1", "mlp/2", stable="1")
    await client.post("/api/apply", json={"target": both.to_json(), "wait_s": 10})
    for stable in ("2", "1", "2"):
        edit = {"target": target("mlp/1", "mlp/2", stable=stable).to_json()}
        assert (await client.post("/api/apply", json=edit)).json()["answering"] == {"mlp": stable}


async def test_a_version_whose_file_has_changed_is_not_started_again(client: httpx.AsyncClient, broken: list[str]) -> None:
    for keys in (["mlp/1"], ["mlp/2"]):
        await client.post("/api/apply", json={"target": target(*keys).to_json(), "wait_s": 10})
    broken.append("mlp/1")
    refused = await client.post("/api/models/mlp/rollback", json={})
    assert (refused.status_code, refused.json()["error"]) == (409, "mlp/1 cannot be started as it was in revision 1: it has changed")
    assert (await client.get("/api/status")).json()["answering"] == {"mlp": "2"}


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "after=-1", "limit=10001", "since=soon"])
async def test_a_wrong_query_says_what_is_wrong(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/api/events?{query}")).status_code == 400


async def test_a_target_that_cannot_be_served_is_no_revision(client: httpx.AsyncClient) -> None:
    (deployment,) = target("mlp/1").deployments
    wrong = replace(target("mlp/1"), deployments=(DeploymentTarget(deployment.plan, replicas="many"),))  # type: ignore[arg-type]
    for path in ("/api/apply", "/api/plan"):
        refused = await client.post(path, json={"target": wrong.to_json()})
        assert (refused.status_code, "replicas" in refused.json()["error"]) == (400, True)
    assert (await client.get("/api/history")).json()["revisions"] == []
    order = {"target": target("mlp/1").to_json(), "reason": "x" * 2001}
    assert (await client.post("/api/apply", json=order)).status_code == 400
    assert (await client.get("/api/history")).json()["revisions"] == []
