"""Extensions of the protocol as tritonclient uses them, over both protocols."""

from __future__ import annotations

import httpx
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
from tritonclient.utils import InferenceServerException

from .rig import DataPath


async def test_the_config_of_a_model_is_the_same_over_all_clients(path: DataPath) -> None:
    with thttp.InferenceServerClient(path.rest) as client:
        rest = client.get_model_config("pair", "2")
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nobody' is not found"):
            client.get_model_config("nobody")
    async with ahttp.InferenceServerClient(path.rest) as client:
        assert await client.get_model_config("pair", "2") == rest
    with tgrpc.InferenceServerClient(path.grpc) as client:
        config = client.get_model_config("pair", "2", as_json=True)["config"]
        with pytest.raises(InferenceServerException, match="failed to get model version from specified version string 'two'"):
            client.get_model_config("pair", "two")
    async with agrpc.InferenceServerClient(path.grpc) as client:
        assert (await client.get_model_config("pair", "2")).config.max_batch_size == 8
    assert rest["max_batch_size"] == config["max_batch_size"] == 8
    assert rest["version_policy"] == {"specific": {"versions": [1, 2]}}
    assert [(i["name"], i["data_type"], i["dims"]) for i in rest["input"]] == [("a", "TYPE_INT32", [16]), ("b", "TYPE_INT32", [16])]
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 2048
    assert rest["instance_group"][0]["count"] == 1


def test_a_config_is_only_to_be_read(path: DataPath) -> None:
    with httpx.Client(base_url=f"http://{path.rest}") as client:
        assert client.get("/v2/models/whole/config").json()["max_batch_size"] == 0
        assert "dynamic_batching" not in client.get("/v2/models/whole/versions/1/config").json()
        assert client.post("/v2/models/whole/config").status_code == 405
