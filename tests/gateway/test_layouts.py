from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import DecodeError
from serving.gateway.layouts import LayoutCache, LayoutIds
from serving.inference import Layout, TensorLayout
from serving.tensor import DType


def layout(n: int) -> Layout:
    return Layout((TensorLayout.fixed("x", DType.FP32, (1, n)),))


def test_an_object_seen_before_is_found_and_an_equal_one_too() -> None:
    ids = LayoutIds()
    first = layout(4)
    assert ids.find("mlp/1", first) == -1
    layout_id, body = ids.define("mlp/1", first)
    assert json.loads(body) == {"m": "mlp/1", **first.to_json()}
    assert ids.find("mlp/1", first) == layout_id
    assert ids.find("mlp/1", layout(4)) == layout_id
    assert len(ids) == 1


def test_the_same_layout_of_two_versions_has_two_ids() -> None:
    ids = LayoutIds()
    shared = layout(4)
    one, _ = ids.define("mlp/1", shared)
    assert ids.find("mlp/2", shared) == -1
    two, _ = ids.define("mlp/2", shared)
    assert one != two
    assert [ids.find("mlp/1", shared), ids.find("mlp/2", shared)] == [one, two]


def test_equal_parameters_of_other_types_have_ids_of_their_own() -> None:
    ids = LayoutIds()
    made = [Layout(layout(1).tensors, parameters=(("p", value),)) for value in (1, True, 1.0)]
    assert len({ids.define("mlp/1", one)[0] for one in made if ids.find("mlp/1", one) < 0}) == 3
    assert [ids.find("mlp/1", Layout(one.tensors, parameters=one.parameters)) for one in made] == [0, 1, 2]


@given(st.lists(st.tuples(st.sampled_from(["a/1", "b/1"]), st.integers(0, 9), st.booleans()), max_size=80))
def test_an_id_always_means_what_was_defined_last_under_it(asked: list[tuple[str, int, bool]]) -> None:
    ids = LayoutIds(limit=4)
    kept = [layout(n) for n in range(10)]
    receiver: dict[int, tuple[str, Layout]] = {}
    for key, n, fresh in asked:
        wanted = layout(n) if fresh else kept[n]
        layout_id = ids.find(key, wanted)
        if layout_id < 0:
            assert ids.full == (len(receiver) == 4)
            layout_id, body = ids.define(key, wanted)
            value = json.loads(body)
            receiver[layout_id] = (value["m"], Layout.from_json(value))
        assert layout_id < 4
        assert receiver[layout_id] == (key, wanted)
        assert len(ids._by_identity) <= 4
        assert len(ids._by_value) <= 4


def test_equal_json_gives_the_same_object_and_the_oldest_goes() -> None:
    cache = LayoutCache(limit=2)
    bodies = [json.dumps(layout(n).to_json()).encode() for n in range(3)]
    first = cache.get(bodies[0])
    assert cache.get(bytes(bodies[0])) is first
    cache.get(bodies[1])
    cache.get(bodies[2])
    assert len(cache) == 2
    assert cache.get(bodies[2]) is cache.get(bodies[2])
    assert cache.get(bodies[0]) == first


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"t":[["x","FP31",[1],4]],"o":[],"p":[],"r":1}', b'{"t":3,"o":[],"p":[],"r":1}'])
def test_json_that_is_no_layout_is_garbage(body: bytes) -> None:
    with pytest.raises(DecodeError):
        LayoutCache().get(body)
