from __future__ import annotations

from pathlib import Path

import pytest

from serving.plan import Target
from serving.spec import load


@pytest.mark.parametrize(
    ("policy", "versions", "stable"),
    [
        ("traffic: {stable: 2}", ("1", "2", "10"), "2"),
        ("version_policy: {latest: 1}", ("10",), "10"),
        ("version_policy: {latest: 2}", ("2", "10"), "10"),
        ("version_policy: {latest: 9}", ("1", "2", "10"), "10"),
        ("version_policy: {specific: [1, 2]}", ("1", "2"), "2"),
        ("version_policy: {specific: [1, 10]}, traffic: {stable: 1}", ("1", "10"), "1"),
    ],
)
def test_the_policy_says_which_declared_versions_run(tmp_path: Path, policy: str, versions: tuple[str, ...], stable: str) -> None:
    (tmp_path / "m.py").write_text("class Model:\n    def predict(self, inputs): return inputs\n")
    declared = ", ".join(f"{v}: {{artefact: m.py, runtime: python}}" for v in (10, 1, 2))
    (tmp_path / "m.yaml").write_text(f"models: {{m: {{versions: {{{declared}}}, {policy}}}}}")
    target: Target = load([tmp_path / "m.yaml"])
    assert tuple(d.plan.version for d in target.deployments) == target.routes.routes["m"].versions == versions
    assert target.routes.routes["m"].stable == stable
