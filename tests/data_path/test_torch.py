"""A torch model at the end of the data path: what clients get is what torch computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from safetensors.torch import save_file

from serving.hosting import BatchPolicy, HostPlan, VersionPlan
from serving.tensor import DType, Signature, TensorSpec

from .rig import DataPath

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x):
        return torch.relu(self.linear(x))
"""


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, torch.Tensor]:
    state = {"linear.weight": torch.arange(8.0).reshape(2, 4) - 3, "linear.bias": torch.tensor([0.5, -0.5])}
    save_file(state, tmp_path / "net.safetensors")
    return state


@pytest.fixture
def node(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Iterator[DataPath]:
    (tmp_path / "net.py").write_text(SOURCE)
    signature = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (2,)),), 16)
    version = VersionPlan(
        "net", "1", "torch", str(tmp_path / "net.py"), "Net", weights=str(tmp_path / "net.safetensors"), signature=signature,
        batching=BatchPolicy(max_batch_size=16),
    )  # fmt: skip
    with DataPath() as path:
        path.replica(HostPlan((version,)), "t1")
        path.gateway("a")
        yield path


def test_clients_get_what_torch_computes(node: DataPath, weights: dict[str, torch.Tensor]) -> None:
    x = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
    wanted = torch.relu(torch.from_numpy(x) @ weights["linear.weight"].T + weights["linear.bias"]).numpy()
    for kind, address in ((thttp, node.rest), (tgrpc, node.grpc)):
        with kind.InferenceServerClient(address) as client:
            tensor = kind.InferInput("x", x.shape, "FP32")
            tensor.set_data_from_numpy(x)
            for _ in range(3):
                np.testing.assert_allclose(client.infer("net", [tensor]).as_numpy("y"), wanted, rtol=1e-5)
            metadata = client.get_model_metadata("net")
            assert "torch" in str(metadata["platform"] if isinstance(metadata, dict) else metadata.platform)
