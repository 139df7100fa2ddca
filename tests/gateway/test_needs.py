"""Which role which request needs. What nobody has written down is for admins."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2

from serving.access.identity import Role
from serving.gateway.needs import OPEN, Need, of_grpc, of_message, of_rest

I = "/inference.GRPCInferenceService/"  # noqa: E741
REST = [
    ("GET", "/v2/health/live", OPEN),
    ("GET", "/v2/health/ready/", OPEN),
    ("GET", "/edge/health", OPEN),
    ("GET", "/v2", Need(Role.viewer)),
    ("GET", "/v2/models/m", Need(Role.viewer, "m")),
    ("GET", "/v2/models/m/versions/2/ready", Need(Role.viewer, "m")),
    ("POST", "/v2/models/m/infer", Need(Role.predictor, "m")),
    ("POST", "//v2//models/m/versions/2/infer/", Need(Role.predictor, "m")),
    ("GET", "/v2/models/m/infer", Need(Role.predictor, "m")),
    ("POST", "/v2/models/m/generate_stream", Need(Role.predictor, "m")),
    ("POST", "/v2/models/m/trace/setting", Need(Role.deployer, "m")),
    ("GET", "/v2/models/stats", Need(Role.viewer, whole=True)),
    ("POST", "/v2/repository/index", Need(Role.viewer, whole=True)),
    ("POST", "/v2/repository/models/m/load", Need(Role.deployer, "m")),
    ("POST", "/v2/systemsharedmemory/region/r/register", Need(Role.predictor, whole=True)),
    ("POST", "/v1/models/m:predict", Need(Role.predictor, "m")),
    ("GET", "/v1/models/m", Need(Role.viewer, "m")),
    ("POST", "/v2/logging", Need(Role.admin, whole=True)),
    ("GET", "/v2/logging", Need(Role.viewer)),
    ("POST", "/anything/new", Need(Role.admin, whole=True)),
    ("DELETE", "/v2/models/m", Need(Role.deployer, "m")),
]


@pytest.mark.parametrize(("method", "path", "need"), REST, ids=[f"{m} {p}" for m, p, _ in REST])
def test_rest(method: str, path: str, need: Need) -> None:
    assert of_rest(method.encode(), path) == need


def test_grpc() -> None:
    assert of_grpc(I + "ServerLive") is OPEN
    assert of_grpc("/grpc.health.v1.Health/Watch") is OPEN
    assert of_grpc(I + "ModelInfer").role is Role.predictor
    assert of_grpc(I + "NewMethod") == Need(Role.admin, whole=True)
    assert of_grpc("/other.Service/ServerLive") == Need(Role.admin, whole=True)


def test_every_method_of_the_protocol_is_written_down() -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert [m.name for m in methods if of_grpc(I + m.name) == Need(Role.admin, whole=True)] == []


def test_the_model_of_a_grpc_request_is_in_its_message() -> None:
    load = service_pb2.RepositoryModelLoadRequest(model_name="m")
    load.parameters["file:1/model.pt2"].bytes_param = b"\xff\xfe"
    table = [
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name="m", version="1"), Need(Role.viewer, "m")),
        ("ModelStatistics", service_pb2.ModelStatisticsRequest(), Need(Role.viewer, whole=True)),
        ("RepositoryModelLoad", load, Need(Role.deployer, "m")),
        ("TraceSetting", service_pb2.TraceSettingRequest(model_name="m"), Need(Role.viewer, "m")),
        ("LogSettings", service_pb2.LogSettingsRequest(), Need(Role.viewer)),
    ]
    for method, message, need in table:
        assert of_message(of_grpc(I + method), message.SerializeToString()) == need
    write = service_pb2.TraceSettingRequest(model_name="m")
    write.settings["trace_rate"].value.append("1")
    assert of_message(of_grpc(I + "TraceSetting"), write.SerializeToString()) == Need(Role.deployer, "m")
    log = service_pb2.LogSettingsRequest()
    log.settings["log_info"].bool_param = False
    assert of_message(of_grpc(I + "LogSettings"), log.SerializeToString()) == Need(Role.admin, whole=True)
