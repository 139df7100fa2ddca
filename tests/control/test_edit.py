"""What `apply` and `delete` make of the target that there is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.control.edit import merged, without
from serving.errors import NotFound
from serving.plan import EngineSettings
from tests.control.fake_cluster import target


def test_applied_models_take_the_place_of_those_of_the_same_name() -> None:
    now = replace(target("mlp/1", "mlp/2", "echo/1"), descriptions={"mlp": "old", "mlp/2": "old", "echo": "stays"})
    new = replace(target("mlp/3"), descriptions={"mlp": "new"})
    both = merged(now, new)
    assert [d.key for d in both.deployments] == ["echo/1", "mlp/3"]
    assert both.routes.routes["mlp"].versions == ("3",)
    assert both.descriptions == {"mlp": "new", "echo": "stays"}


@pytest.mark.parametrize(
    ("said", "given", "gateways"),
    [(EngineSettings(), set(), 2), (EngineSettings(gateways=3), {"gateways"}, 3), (EngineSettings(gateways=1), {"gateways"}, 1)],
)
def test_settings_change_where_the_new_files_state_them(said: EngineSettings, given: set[str], gateways: int) -> None:
    now = replace(target("mlp/1", gateways=2), given=frozenset({"gateways"}))
    then = merged(now, replace(target("echo/1"), settings=replace(said, server_name="unsaid"), given=frozenset(given)))
    assert (then.settings.gateways, then.settings.server_name) == (gateways, "serving")


def test_a_model_goes_with_its_versions_routes_and_words() -> None:
    now = replace(target("mlp/1", "mlp/2", "echo/1"), descriptions={"mlp/2": "x", "echo": "y"})
    assert without(now, "mlp") == replace(target("echo/1"), descriptions={"echo": "y"})


def test_a_model_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(NotFound, match=r"no model 'mpl' \(models: echo, mlp\)"):
        without(target("mlp/1", "echo/1"), "mpl")
