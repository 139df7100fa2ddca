"""REST under a path of its own: clients that are told host:port/path, and proxies that put one in front."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from serving.state import GatewayLimits

from .alone import LoneGateway


@pytest.fixture
def gateway() -> Iterator[LoneGateway]:
    gateway = LoneGateway()
    yield gateway
    gateway.close()


def test_everything_is_there_with_and_without_the_path(gateway: LoneGateway) -> None:
    gateway.limit(GatewayLimits(), base_path="/ml/serving")
    address = "{}:{}".format(*gateway.tcp)
    for prefix in ("", "/ml/serving"):
        client = triton.InferenceServerClient(address + prefix)
        assert client.is_server_live()
        assert client.get_model_metadata("m")["name"] == "m"
        x = triton.InferInput("x", [1, 3], "FP32").set_data_from_numpy(np.ones((1, 3), np.float32))
        assert client.infer("m", [x]).as_numpy("y").tolist() == [[1, 1, 1]]
        client.close()
    for path in ("/ml/v2", "/ml/servingv2", "/serving/v2", "/ml/serving/ml/serving/v2"):
        assert httpx.get(f"http://{address}{path}").status_code == 404
    gateway.limit(GatewayLimits())
    assert httpx.get(f"http://{address}/ml/serving/v2").status_code == 404
