from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.hosting import BatchPolicy
from serving.plan import DeploymentTarget, app_name, code_version, key_of_app
from serving.tensor import DType, Signature, TensorSpec
from tests.plan.deployments import deployment, targets

BASE = deployment("mlp/1", max_batch_size=64)
SIGNATURE = Signature((TensorSpec("x", DType.FP32, (4,)),), (TensorSpec("y", DType.FP32, (2,)),), 64)


@pytest.mark.parametrize(
    "changed",
    [
        replace(BASE, digest="other"),
        replace(BASE, plan=replace(BASE.plan, artefact="/other.pt2")),
        replace(BASE, plan=replace(BASE.plan, runtime="python")),
        replace(BASE, plan=replace(BASE.plan, entry="Net")),
        replace(BASE, plan=replace(BASE.plan, weights="/w.safetensors")),
        replace(BASE, plan=replace(BASE.plan, options={"width": 2})),
        replace(BASE, plan=replace(BASE.plan, signature=SIGNATURE)),
        replace(BASE, plan=replace(BASE.plan, threads=2)),
        replace(BASE, plan=replace(BASE.plan, memory_mb=512)),
        replace(BASE, plan=replace(BASE.plan, warm_up=(1,))),
        replace(BASE, plan=replace(BASE.plan, batching=BatchPolicy(max_batch_size=32))),
        replace(BASE, plan=replace(BASE.plan, batching=BatchPolicy(max_batch_size=64, execution="inline"))),
        replace(BASE, cpus=2),
        replace(BASE, gpus=0.5),
        replace(BASE, accelerator_type="A100"),
        replace(BASE, labels={"zone": "a"}),
    ],
)
def test_what_needs_new_replicas_changes_the_code_version(changed: DeploymentTarget) -> None:
    assert code_version(changed) != code_version(BASE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(BASE, replicas=5),
        replace(BASE, cpus=1),
        replace(BASE, plan=replace(BASE.plan, batching=BatchPolicy(max_batch_size=64, max_delay_s=1.0, max_queue_bytes=9, timeout_s=2.0))),
    ],
)
def test_what_is_taken_over_in_place_does_not(changed: DeploymentTarget) -> None:
    assert code_version(changed) == code_version(BASE)


def test_the_code_version_is_the_same_on_every_machine_and_in_every_release() -> None:
    assert code_version(BASE) == "84348fa330cb08cf"


@settings(deadline=None)
@given(targets())
def test_the_code_version_outlives_a_round_through_json(target: object) -> None:
    for d in target.deployments:  # type: ignore[attr-defined]
        assert code_version(DeploymentTarget.from_json(d.to_json())) == code_version(d)


@settings(deadline=None)
@given(st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.\-]{0,20}\Z"), st.integers(0, 10**6))
def test_an_application_name_can_be_taken_apart(model: str, version: int) -> None:
    assert key_of_app(app_name(model, str(version))) == f"{model}/{version}"


@pytest.mark.parametrize("name", ["default", "gateway", "", "@1", "mlp@"])
def test_other_applications_are_no_models(name: str) -> None:
    assert key_of_app(name) is None
