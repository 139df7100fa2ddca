"""shortage: what no node can ever hold, in words."""

from __future__ import annotations

from typing import Any

import pytest

from serving.cluster.placement import shortage
from serving.hosting import VersionPlan
from serving.plan import DeploymentTarget

LAPTOP = {"Resources": {"CPU": 8.0}, "Labels": {}}
GPUS = {"Resources": {"CPU": 64.0, "GPU": 2.0, "accelerator_type:A100": 1.0}, "Labels": {"zone": "eu-1"}}


@pytest.mark.parametrize(
    ("nodes", "need", "reason"),
    [
        ([LAPTOP], {}, ""),
        ([LAPTOP], {"cpus": 9}, "needs 9 CPUs, the largest node has 8"),
        ([LAPTOP], {"gpus": 1}, "needs 1 GPU, the cluster has 0"),
        ([LAPTOP], {"gpus": 0.25}, "needs 0.25 GPU, the cluster has 0"),
        ([LAPTOP, GPUS], {"gpus": 2}, ""),
        ([LAPTOP, GPUS], {"gpus": 4}, "needs 4 GPUs, the largest node has 2"),
        ([LAPTOP, GPUS], {"gpus": 1, "accelerator_type": "A100"}, ""),
        ([LAPTOP, GPUS], {"gpus": 1, "accelerator_type": "H100"}, "needs an accelerator of type H100, the cluster has none"),
        ([LAPTOP, GPUS], {"labels": {"zone": "eu-1"}}, ""),
        ([LAPTOP, GPUS], {"labels": {"zone": "us-1"}}, "needs a node with zone=us-1, the cluster has none"),
        ([GPUS], {"cpus": 65, "labels": {"zone": "eu-1"}}, "needs 65 CPUs, the largest node has 64"),
    ],
)
def test_a_shortage_names_what_is_missing(nodes: list[dict[str, Any]], need: dict[str, Any], reason: str) -> None:
    assert shortage(DeploymentTarget(VersionPlan("m", "1", "torch", "/m.pt2"), **need), nodes) == reason
