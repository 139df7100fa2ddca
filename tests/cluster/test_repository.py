"""Model control with tritonclient, all four kinds, against a real engine: YAML and a repository in Triton's layout side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from tests.cluster.running import RunningEngine, write_model
from tests.models.onnx_files import add_sub

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")]
DOUBLE = "class Model:\n    def predict(self, inputs):\n        return {'y': inputs['x'] * 2}\n"
BROKEN = (DOUBLE + "    def load(self):\n        raise SystemExit(3)\n").encode()
TRIPLE = DOUBLE.replace("* 2", "* 3").encode()
CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
metric_tags { key: "a" value: "b" }
"""
JSON_CONFIG = json.dumps(
    {
        "backend": "python",
        "max_batch_size": 2,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [4]}],
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[RunningEngine]:
    """`echo` is declared in YAML; `simple` (ONNX) and `double` lie in the repository, and only `simple` is loaded at the start."""
    add_sub(folder / "models" / "simple" / "1" / "model.onnx")
    (folder / "models" / "double" / "1").mkdir(parents=True)
    (folder / "models" / "double" / "1" / "model.py").write_text(DOUBLE)
    (folder / "models" / "double" / "config.pbtxt").write_text(CONFIG)
    with RunningEngine(
        folder / "state",
        write_model(folder / "yaml", "echo"),
        f"--model-repository={folder / 'models'}",
        "--model-control=explicit",
        "--load-model=simple",
    ) as running:
        yield running


def index(found: Any) -> dict[str, str]:
    return {f"{m['name']}/{m.get('version', '')}": m["state"] for m in found}


def doubled(client: triton_http.InferenceServerClient) -> list[float]:
    x = triton_http.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.arange(4, dtype=np.float32)[None])
    values: list[float] = client.infer("double", [x]).as_numpy("y")[0].tolist()
    return values


def test_simple_http_model_control(engine: RunningEngine, folder: Path) -> None:
    """The flow of Triton's example, then config override, files, and what cannot be loaded."""
    with triton_http.InferenceServerClient(f"127.0.0.1:{engine.http}") as client:
        assert index(client.get_model_repository_index()) == {"double/1": "UNAVAILABLE", "echo/1": "READY", "simple/1": "READY"}
        a, b = (triton_http.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1"))
        a.set_data_from_numpy(np.arange(16, dtype=np.int32)[None])
        b.set_data_from_numpy(np.ones((1, 16), np.int32))
        answer = client.infer("simple", [a, b])
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT0")[0], np.arange(16) + 1)
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT1")[0], np.arange(16) - 1)

        client.load_model("double")
        assert client.is_model_ready("double")
        assert doubled(client) == [0, 2, 4, 6]
        client.unload_model("simple")
        assert not client.is_model_ready("simple")
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="Request for unknown model"):
            client.infer("simple", [a, b])
        client.load_model("simple")
        assert client.is_model_ready("simple", "1")

        client.load_model("double", config=JSON_CONFIG, files={"file:1/model.py": TRIPLE})
        assert doubled(client) == [0, 3, 6, 9]
        client.load_model("double")
        assert doubled(client) == [0, 2, 4, 6]
        (folder / "models" / "double" / "1" / "model.py").write_text(DOUBLE.replace("* 2", "* 5"))
        client.load_model("double")
        assert doubled(client) == [0, 5, 10, 15]
        client.unload_model("double", unload_dependents=True)
        assert not client.is_model_ready("double")

        for name, options, words in (
            ("wrong", {}, "failed to load 'wrong', failed to poll from model repository"),
            ("simple", {"config": "{"}, "failed to load 'simple'"),
            ("simple", {"files": {"file:1/model.onnx": b"x"}}, "failed to load 'simple', failed to poll from model repository"),
            ("new", {"config": JSON_CONFIG, "files": {"file:../../x/model.py": b"x"}}, "path traversal"),
            ("new", {"config": JSON_CONFIG, "files": {"file:1/model.py": BROKEN}}, "failed to load 'new'.*SystemExit"),
        ):
            with pytest.raises(InferenceServerException, match=words) as raised:
                client.load_model(name, **options)
            assert raised.value.status() in ("400", None)
        assert client.is_model_ready("simple")
        assert "new/1" in index(client.get_model_repository_index())
        assert [m["name"] for m in index_ready(engine)] == ["echo", "simple"]


def index_ready(engine: RunningEngine) -> list[dict[str, str]]:
    found: list[dict[str, str]] = httpx.post(f"http://127.0.0.1:{engine.http}/v2/repository/index", json={"ready": True}).json()
    return found


def test_simple_grpc_model_control(engine: RunningEngine) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{engine.grpc}") as client:
        client.unload_model("echo")
        assert not client.is_model_ready("echo")
        states = {m.name: m.state for m in client.get_model_repository_index().models}
        assert states["echo"] in ("UNLOADING", "UNAVAILABLE")
        client.load_model("echo", config=json.dumps({"max_batch_size": 3, "name": "echo"}))
        assert client.get_model_config("echo", as_json=True)["config"]["max_batch_size"] == 3
        client.load_model("echo")
        assert client.get_model_config("echo", as_json=True)["config"]["max_batch_size"] == 8
        with pytest.raises(InferenceServerException, match="failed to load 'wrong'") as raised:
            client.load_model("wrong")
        assert raised.value.status() == "StatusCode.INTERNAL"
        client.load_model("sent", config=JSON_CONFIG, files={"file:1/model.py": TRIPLE})
        assert client.is_model_ready("sent")
        client.unload_model("sent")
        assert "sent" not in {m.name for m in client.get_model_repository_index().models if m.state == "READY"}


async def test_asynchronous_clients(engine: RunningEngine) -> None:
    async with (
        triton_http_aio.InferenceServerClient(f"127.0.0.1:{engine.http}") as http,
        triton_grpc_aio.InferenceServerClient(f"127.0.0.1:{engine.grpc}") as grpc,
    ):
        await http.unload_model("echo")
        assert not await grpc.is_model_ready("echo")
        await grpc.load_model("echo")
        assert await http.is_model_ready("echo")
        found = index(await http.get_model_repository_index())
        assert found == {f"{m.name}/{m.version}": m.state for m in (await grpc.get_model_repository_index()).models}
        assert found["echo/1"] == "READY"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("index", 200, ""),
        ("models//load", 400, "Model name cannot be empty"),
        ("models/..%2F..%2Fetc/load", 400, "must not contain path traversal"),
        (f"models/{'x' * 256}/load", 400, "is not a model name"),
        ("models/nothing/unload", 200, ""),
        ("other/index", 501, "'repository_name' specification is not supported"),
        ("other/models/echo/load", 501, "'repository_name' specification is not supported"),
        ("what", 404, "Not Found"),
    ],
)
def test_paths(engine: RunningEngine, path: str, status: int, words: str) -> None:
    answer = httpx.post(f"http://127.0.0.1:{engine.http}/v2/repository/{path}")
    assert answer.status_code == status
    assert words in answer.text
    assert httpx.get(f"http://127.0.0.1:{engine.http}/v2/repository/index").status_code == 405


def test_what_cannot_be_honoured_is_said_when_models_are_looked_at(engine: RunningEngine, folder: Path) -> None:
    said = engine.serving("validate", f"--model-repository={folder / 'models'}")
    assert said.returncode == 0
    assert "double/config.pbtxt: not honoured: metric_tags" in said.stderr
    assert "valid: double (version 1), simple (version 1)" in said.stdout
