"""Trace and log settings over all clients: answered, kept for all gateways, global and of a model, and taken back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import tritonclient.grpc as tgrpc
import tritonclient.grpc.aio as agrpc
import tritonclient.http as thttp
import tritonclient.http.aio as ahttp
from tritonclient.utils import InferenceServerException

from serving import telemetry

from .rig import DataPath


@pytest.fixture(autouse=True)
def taken_back(path: DataPath) -> Iterator[None]:
    yield
    with thttp.InferenceServerClient(path.rest) as client:
        client.update_trace_settings(settings={"trace_level": None, "trace_rate": None, "trace_count": None, "log_frequency": None})
        client.update_trace_settings(model_name="pair", settings={"trace_level": None, "trace_rate": None})
        client.update_log_settings({"log_info": True, "log_verbose_level": 0, "log_format": "default"})


def values(told: Any) -> dict[str, Any]:
    return {key: list(setting.value) for key, setting in told.settings.items()}


def test_trace_settings_of_a_model_and_of_all(path: DataPath) -> None:
    with thttp.InferenceServerClient(path.rest) as rest, tgrpc.InferenceServerClient(path.grpc) as grpc:
        first = rest.get_trace_settings()
        assert first == {
            "trace_file": "",
            "trace_level": ["OFF"],
            "trace_rate": "1000",
            "trace_count": "-1",
            "log_frequency": "0",
            "trace_mode": "triton",
        }
        everything = dict.fromkeys(("trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency"))
        assert rest.update_trace_settings(settings=everything) == first, "null takes back, and what cannot be set is as it was"
        assert values(grpc.update_trace_settings(settings=everything))["trace_file"] == [""]
        assert rest.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})["trace_rate"] == "5"
        told = grpc.update_trace_settings("pair", {"trace_level": ["TENSORS", "TIMESTAMPS"], "trace_rate": "7"})
        assert values(told)["trace_rate"] == ["7"]


async def test_the_async_clients_trace_and_log(path: DataPath) -> None:
    async with ahttp.InferenceServerClient(path.rest) as rest, agrpc.InferenceServerClient(path.grpc) as grpc:
        assert (await rest.update_trace_settings(settings={"trace_count": "10"}))["trace_count"] == "10"
        assert values(await grpc.get_trace_settings())["trace_count"] == ["10"]
        assert (await rest.update_log_settings({"log_verbose_level": 1}))["log_verbose_level"] == 1
        assert (await grpc.get_log_settings()).settings["log_verbose_level"].uint32_param == 1


def test_log_settings_take_effect(path: DataPath) -> None:
    logger = logging.getLogger(telemetry.ROOT)
    kept: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    handler = Keep()
    logger.addHandler(handler)
    try:
        with thttp.InferenceServerClient(path.rest) as rest, tgrpc.InferenceServerClient(path.grpc) as grpc:
            assert rest.get_log_settings()["log_info"] is True
            told = grpc.update_log_settings({"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"}).settings
            assert (told["log_info"].bool_param, told["log_verbose_level"].uint32_param) == (False, 1)
            assert told["log_format"].string_param == "ISO8601"
            assert rest.get_log_settings()["log_error"] is True
            logging.getLogger("serving.gateway").info("not this")
            logging.getLogger("serving.gateway").debug("this")
            logging.getLogger("serving.gateway").warning("and this")
            rest.update_log_settings({"log_verbose_level": 0, "log_info": True})
            logging.getLogger("serving.gateway").debug("nor this")
            logging.getLogger("serving.gateway").info("but this")
        assert [text for text in kept if "this" in text] == ["this", "and this", "but this"]
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("where", "body", "status", "text"),
    [
        ("/v2/logging", {"log_file": "/tmp/x"}, 501, "log file location can not be updated through network protocol"),
        ("/v2/logging", {"log_info": 1}, 400, "attempt to access JSON non-boolean as boolean"),
        ("/v2/logging", {"log_verbose_level": -1}, 400, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
        ("/v2/logging", {"log_format": "xml"}, 400, "invalid argument for log_format, got: xml"),
        ("/v2/logging", {"log_colour": True}, 400, "unknown log setting 'log_colour'"),
        ("/v2/logging", [], 400, "the document is not an object"),
        ("/v2/trace/setting", {"trace_file": "/tmp/x"}, 501, "trace file location can not be updated through network protocol"),
        ("/v2/trace/setting", {"trace_level": ["LOUD"]}, 400, "invalid value for 'trace_level'"),
        ("/v2/systemsharedmemory/register", {}, 400, "'region name' is necessary to register system shared memory region"),
        ("/v2/cudasharedmemory/register", {}, 400, "'region name' is necessary to register cuda shared memory region"),
        ("/v2/trace/setting", {"trace_level": []}, 400, "invalid value for 'trace_level'"),
        ("/v2/trace/setting", {"trace_rate": "often"}, 400, "invalid value for 'trace_rate'"),
        ("/v2/trace/setting", {"trace_count": "-2"}, 400, "invalid value for 'trace_count'"),
        ("/v2/trace/setting", {"trace_rate": {}}, 400, "attempt to access JSON non-string as string"),
        ("/v2/trace/setting", {"trace_colour": "1"}, 400, "unknown trace setting 'trace_colour'"),
        ("/v2/models/nobody/trace/setting", {}, 400, "Request for unknown model : nobody"),
    ],
)
def test_what_cannot_be_set(path: DataPath, where: str, body: Any, status: int, text: str) -> None:
    answer = httpx.post(f"http://{path.rest}{where}", json=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]


def test_a_model_has_one_set_of_trace_settings_whichever_version_is_asked(path: DataPath) -> None:
    own = f"http://{path.rest}/v2/models/pair/versions/2/trace/setting"
    assert httpx.post(own, json={"trace_level": ["TENSORS", "TENSORS"], "trace_rate": "7"}).json()["trace_level"] == ["TENSORS"]
    assert httpx.get(f"http://{path.rest}/v2/models/pair/trace/setting").json()["trace_rate"] == "7"
    assert httpx.post(own, json={"trace_level": None, "trace_rate": None}).json()["trace_rate"] == "1000"
    assert httpx.get(own.replace("/2/", "/x/")).status_code == 404


def test_grpc_says_the_same(path: DataPath) -> None:
    with tgrpc.InferenceServerClient(path.grpc) as client:
        for act, text in (
            (lambda: client.update_log_settings({"log_file": "x"}), "log file location can not be updated through network protocol"),
            (lambda: client.update_trace_settings("nobody", {}), "Request for unknown model : nobody"),
            (lambda: client.update_trace_settings(None, {"trace_rate": ["1", "2"]}), "expect only 1 value for 'trace_rate'"),
        ):
            with pytest.raises(InferenceServerException) as refused:
                act()
            assert text in refused.value.message()
