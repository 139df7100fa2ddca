"""The control API, from its HTTP side, with a cluster of paper behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from serving.control.api import File, create_app
from serving.control.controller import Controller
from serving.control.runner import Runner
from serving.errors import SpecError
from serving.plan import Target
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
async def client(ended: list[bool]) -> AsyncIterator[httpx.AsyncClient]:
    runner = Runner(Controller(EagerCluster(), FakeStore(), FakeClock()))
    runner.start()
    app = create_app(runner, _parse, lambda: ended.append(True), {"urls": {"rest": "http://127.0.0.1:8000"}})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8003") as client:
        yield client
    runner.stop()


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
    ],
)
async def test_another_site_cannot_end_the_engine(
    client: httpx.AsyncClient, ended: list[bool], headers: dict[str, str], status: int
) -> None:
    assert (await client.post("/api/down", json={}, headers=headers)).status_code == status
    assert ended == [True] * (status == 200)


async def test_another_name_cannot_even_read(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/status", headers={"host": "rebound.example"})).status_code == 403
