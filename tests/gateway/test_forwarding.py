"""Headers as parameters: which, how they meet those of the request, and which names are refused."""

from __future__ import annotations

import pytest

from serving.errors import InvalidArgument
from serving.gateway.forwarding import Forwarding
from serving.gateway.head import parse_head
from serving.inference import InferRequest, Layout, TensorLayout
from serving.tensor import DType

HEAD = parse_head(b"GET / HTTP/1.1\r\nHost: h\r\nX-Tenant: blue\r\nX-Tenant-Id: 7\r\nAuthorization: Basic eA==\r\nPriority: 3\r\n\r\n")


def request(**parameters: str | int) -> InferRequest:
    layout = Layout((TensorLayout.fixed("x", DType.FP32, (1,)),), ("y",), tuple(sorted(parameters.items())), 1)
    return InferRequest("m", "1", layout, [bytes(4)])


@pytest.mark.parametrize(
    ("pattern", "pairs"),
    [
        ("", ()),
        ("x-tenant", (("x-tenant", "blue"),)),
        ("X-TENANT.*", (("x-tenant", "blue"), ("x-tenant-id", "7"))),
        ("authorization|tenant", ()),
        (".*x-tenant-id", (("x-tenant-id", "7"),)),
    ],
)
def test_whole_names_are_matched_and_secrets_stay(pattern: str, pairs: tuple[tuple[str, str], ...]) -> None:
    assert Forwarding(pattern).of(HEAD) == pairs


def test_the_header_wins_and_layouts_are_shared() -> None:
    forwarding = Forwarding("x-tenant")
    pairs = forwarding.of(HEAD)
    one = request(**{"x-tenant": "red", "a": 1})
    layout = one.layout
    forwarding.put(one, pairs)
    assert one.layout.parameters == (("a", 1), ("x-tenant", "blue"))
    assert (one.layout.tensors, one.layout.outputs, one.layout.rows) == (layout.tensors, layout.outputs, layout.rows)
    again = request()
    again.layout = layout
    forwarding.put(again, pairs)
    assert again.layout is one.layout


def test_parameters_that_are_equal_but_of_other_types_stay_apart() -> None:
    forwarding = Forwarding("x-tenant")
    whole, flag = request(a=1), request(a=True)
    for one in (whole, flag):
        forwarding.put(one, forwarding.of(HEAD))
    assert type(dict(whole.layout.parameters)["a"]) is int
    assert type(dict(flag.layout.parameters)["a"]) is bool


@pytest.mark.parametrize("name", ["priority", "timeout", "sequence_id", "triton_x"])
def test_names_of_the_protocol_are_refused(name: str) -> None:
    forwarding = Forwarding(name)
    head = parse_head(f"GET / HTTP/1.1\r\nHost: h\r\n{name}: 1\r\n\r\n".encode())
    with pytest.raises(InvalidArgument, match=f"header '{name}' cannot be forwarded"):
        forwarding.put(request(), forwarding.of(head))
