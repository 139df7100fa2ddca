from __future__ import annotations

import numpy as np
import orjson
import pytest
import tritonclient.http as triton_http
import yaml
from tritonclient.grpc import service_pb2

from benchmarks.peers import engine, oip
from benchmarks.workload import ECHO, ECHO_IMAGE, MLP, RESNET, Workload


@pytest.mark.parametrize(("workload", "answer"), [(ECHO, (1, 16)), (MLP, (1, 10)), (RESNET, (1, 100))])
def test_models_give_the_same_answer_each_time_they_are_made(workload: Workload, answer: tuple[int, ...]) -> None:
    again = Workload(workload.model, workload.cls, workload.row)
    assert workload.y.shape == answer
    assert np.array_equal(workload.y, again.y)
    assert np.isfinite(workload.y).all()
    assert workload.y.std() > 0


@pytest.mark.parametrize("workload", [ECHO, MLP])
def test_rest_body_is_what_tritonclient_sends(workload: Workload) -> None:
    x = triton_http.InferInput("x", list(workload.x.shape), "FP32")
    x.set_data_from_numpy(workload.x)
    body, length = triton_http.InferenceServerClient.generate_request_body([x], outputs=[triton_http.InferRequestedOutput("y")])
    own = int(workload.rest_headers["inference-header-content-length"])
    assert orjson.loads(workload.rest_body[:own]) == orjson.loads(body[:length])
    assert workload.rest_body[own:] == body[length:]


def test_the_grpc_message_is_a_request_with_raw_numbers() -> None:
    message = service_pb2.ModelInferRequest.FromString(MLP.grpc_message)
    assert message.model_name == "mlp"
    assert message.raw_input_contents[0] == MLP.x.tobytes()


def test_the_image_is_600_kb() -> None:
    assert 600_000 < len(ECHO_IMAGE.rest_body) < 605_000


@pytest.mark.parametrize(("name", "y"), [("z", MLP.y), ("y", MLP.y[0]), ("y", MLP.y + np.float32(0.01))], ids=["name", "shape", "values"])
def test_a_wrong_answer_is_noticed(name: str, y: np.ndarray) -> None:
    check = MLP.rest().check
    assert check(oip.encode("mlp", MLP.y)[0]) is None
    assert check(oip.encode("mlp", y)[0].replace(b'"name":"y"', f'"name":"{name}"'.encode()))


def test_the_peers_read_and_write_the_binary_form() -> None:
    x = oip.decode(MLP.rest_body, int(MLP.rest_headers["inference-header-content-length"]))
    assert np.array_equal(x, MLP.x)
    body, headers = oip.encode("mlp", MLP.y)
    answer = triton_http.InferenceServerClient.parse_response_body(body, header_length=int(headers["inference-header-content-length"]))
    assert np.array_equal(answer.as_numpy("y"), MLP.y)


def test_the_variant_differs_in_resnet_and_the_image_only() -> None:
    plain, variant = yaml.safe_load(engine.CONFIG.read_text()), yaml.safe_load(engine.two_replicas(engine.CONFIG))
    assert variant["models"]["resnet"].pop("replicas") == 2
    image = variant["models"].pop("echo_image")
    assert image["signature"]["inputs"][0]["shape"] == [3, 224, 224]
    artefact = "../benchmarks/models/"
    for model in variant["models"].values():
        for version in model["versions"].values():
            version["artefact"] = artefact + version["artefact"].rsplit("/", 1)[1]
    assert variant == plain
