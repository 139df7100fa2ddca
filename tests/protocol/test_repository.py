from __future__ import annotations

import base64
import json

import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.errors import DecodeError, InvalidArgument, ServingError, Unsupported
from serving.protocol import repository
from serving.protocol.repository import Load

MODELS = [
    {"name": "m", "version": "1", "state": "READY", "reason": ""},
    {"name": "n", "version": "2", "state": "UNAVAILABLE", "reason": "x"},
]


@pytest.mark.parametrize(
    ("body", "ready"),
    [(b"", False), (b"{}", False), (b'{"ready":true}', True), (b'{"ready":null}', False), (b'{"ready":false,"other":1}', False)],
)
def test_an_index_may_ask_for_what_is_ready(body: bytes, ready: bool) -> None:
    assert repository.rest_index(body) is ready


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"ready":1}', "Invalid value for 'ready': expected a boolean"),
        (b"[]", "expected an object"),
        (b"{", "failed to parse the request JSON buffer"),
        (b"[" * 250_000, "nesting depth|failed to parse"),
    ],
)
def test_a_bad_index_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        repository.rest_index(body)


def test_both_protocols_show_the_same_index() -> None:
    assert json.loads(repository.rest_index_answer(MODELS)) == MODELS
    answer = pb.RepositoryIndexResponse.FromString(repository.grpc_index_answer(MODELS))
    assert [{"name": m.name, "version": m.version, "state": m.state, "reason": m.reason} for m in answer.models] == MODELS


def test_a_load_has_a_config_and_files() -> None:
    content = base64.b64encode(b"\0\1").decode()
    body = {"parameters": {"config": "{}", "file:1/model.onnx": content}}
    want = Load("m", "{}", {"1/model.onnx": content})
    assert repository.rest_load("m", json.dumps(body).encode()) == want
    message = pb.RepositoryModelLoadRequest(model_name="m")
    message.parameters["config"].string_param = "{}"
    message.parameters["file:1/model.onnx"].bytes_param = b"\0\1"
    assert repository.grpc_load(message.SerializeToString()) == want
    assert (
        repository.rest_load("m", b"")
        == repository.grpc_load(pb.RepositoryModelLoadRequest(model_name="m").SerializeToString())
        == Load("m")
    )


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"config": {}}, "non-string as string"),
        ({"config": None}, "non-string as string"),
        ({"file:1/m": 5}, "non-string as string"),
        ({"confg": ""}, "unrecognized parameter 'confg'"),
        ([], "non-object as object"),
    ],
)
def test_a_bad_load_is_refused(parameters: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        repository.rest_load("m", json.dumps({"parameters": parameters}).encode())


def test_an_unload_takes_one_flag() -> None:
    repository.rest_unload(b"")
    repository.rest_unload(b'{"parameters":{"unload_dependents":true}}')
    repository.rest_unload(b'{"parameters":{"what":1}}')  # nobody asked
    with pytest.raises(InvalidArgument, match="non-boolean as boolean"):
        repository.rest_unload(b'{"parameters":{"unload_dependents":"yes"}}')
    message = pb.RepositoryModelUnloadRequest(model_name="m")
    message.parameters["unload_dependents"].bool_param = True
    message.parameters["what"].int64_param = 1
    assert repository.grpc_unload(message.SerializeToString()) == "m"


def _load(key: str, field: str, value: object) -> bytes:
    message = pb.RepositoryModelLoadRequest(model_name="m")
    setattr(message.parameters[key], field, value)
    return bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("read", "message", "error", "words"),
    [
        (repository.grpc_load, _load("config", "bytes_param", b"{}"), InvalidArgument, "expected string_param"),
        (repository.grpc_load, _load("file:1/m", "string_param", "x"), InvalidArgument, "expected bytes_param"),
        (repository.grpc_load, _load("other", "bool_param", True), InvalidArgument, "unrecognized parameter 'other'"),
        (repository.grpc_load, pb.RepositoryModelLoadRequest(repository_name="r").SerializeToString(), Unsupported, "repository_name"),
        (repository.grpc_unload, pb.RepositoryModelUnloadRequest(repository_name="r").SerializeToString(), Unsupported, "repository_name"),
        (repository.grpc_index, pb.RepositoryIndexRequest(repository_name="r").SerializeToString(), Unsupported, "repository_name"),
        (repository.grpc_unload, _load("unload_dependents", "string_param", "x"), InvalidArgument, "expected bool_param"),
        (repository.grpc_index, b"\xff\xff", DecodeError, "cannot parse"),
    ],
)
def test_a_bad_message_is_refused(read: object, message: bytes, error: type[ServingError], words: str) -> None:
    with pytest.raises(error, match=words):
        read(message)  # type: ignore[operator]
