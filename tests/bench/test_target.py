from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.bench.dial import Tls
from serving.bench.prepare import connect
from serving.bench.target import ServerAddress, Target, Wire
from serving.errors import InvalidArgument, NotFound, Unavailable
from serving.tensor import DType, TensorSpec

from .fake_v2 import FakeV2, fake_certificate


@pytest.fixture(params=["rest", "grpc"])
def target(fake: FakeV2, request: pytest.FixtureRequest) -> Iterator[Target]:
    address = ServerAddress.parse(fake.rest if request.param == "rest" else fake.grpc, request.param)
    found = connect(address)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("http://h:8000", None, ("h", 8000, "rest", False, "")),
        ("http://h:8001", "grpc", ("h", 8001, "grpc", False, "")),
        ("h:8001", "grpc", ("h", 8001, "grpc", False, "")),
        ("h:8000", None, ("h", 8000, "rest", False, "")),
        ("grpc://h:9", None, ("h", 9, "grpc", False, "")),
        ("grpcs://h", None, ("h", 8001, "grpc", True, "")),
        ("https://h", None, ("h", 443, "rest", True, "")),
        ("http://[::1]:80/prefix/", None, ("::1", 80, "rest", False, "/prefix")),
        ("http://h:8000/a/v2", None, ("h", 8000, "rest", False, "/a")),
    ],
)
def test_an_address_is_read(url: str, protocol: Wire | None, expected: tuple[object, ...]) -> None:
    found = ServerAddress.parse(url, protocol)
    assert (found.host, found.port, found.protocol, found.secure, found.prefix) == expected


@pytest.mark.parametrize(
    ("url", "protocol", "words"),
    [
        ("", None, "is not an address"),
        ("ftp://h", None, "expected http://HOST:PORT"),
        ("http://h:port", None, "is not an address"),
        ("http://h:99999", None, "is not an address"),
        ("grpc://h:1", "rest", "address of a gRPC server"),
        ("grpc://h:1/path", None, "has no path"),
    ],
)
def test_what_is_no_address_is_told(url: str, protocol: Wire | None, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        ServerAddress.parse(url, protocol)


def test_an_address_is_written_as_people_write_it() -> None:
    assert ServerAddress.parse("https://[::1]:80/p").url == "https://[::1]:80/p"
    assert ServerAddress.parse("h:1", "grpc").url == "grpc://h:1"


def test_the_server_says_who_it_is(target: Target) -> None:
    server = target.server()
    assert (server.name, server.version) == ("fake", "1.2")
    assert server.has("statistics")
    assert not server.has("trace")


def test_a_model_is_described_with_its_configuration(target: Target) -> None:
    info = target.model("double")
    assert info.inputs == (TensorSpec("x", DType.FP32, (-1, 4)),)
    assert info.outputs == (TensorSpec("y", DType.FP32, (-1, 4)),)
    assert (info.versions, info.platform, info.max_batch_size, info.batched, info.decoupled) == (("1", "2"), "fake", 8, True, False)
    assert target.ready("double")


def test_a_model_without_a_batch_dimension_and_a_decoupled_one(target: Target) -> None:
    assert (target.model("plain").batched, target.model("plain").max_batch_size) == (False, 0)
    assert target.model("parts").decoupled


def test_an_unknown_model_is_told_with_the_nearest_and_with_all(target: Target) -> None:
    with pytest.raises(NotFound, match=r"no model 'duoble'.*did you mean 'double'\? it has any, double, parts, plain, wrong"):
        target.model("duoble")


def test_statistics_are_entries_by_version(target: Target) -> None:
    entries = target.statistics("double")
    assert entries is not None
    assert [entry["name"] for entry in entries] == ["double"]


def test_a_server_without_statistics_has_none() -> None:
    with FakeV2(statistics=False) as bare:
        for address in (ServerAddress.parse(bare.rest), ServerAddress.parse(bare.grpc, "grpc")):
            target = connect(address)
            assert target.statistics("double") is None
            target.close()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_server_that_is_not_there_is_told(protocol: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    target = connect(ServerAddress.parse(f"127.0.0.1:{port}", protocol))
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} cannot be reached.*is the server up"):
        target.server()
    target.close()


def test_something_else_that_speaks_http_is_told(fake: FakeV2) -> None:
    target = connect(ServerAddress.parse(f"http://{fake.rest}/other"))
    with pytest.raises(InvalidArgument, match="does not speak the Open Inference Protocol: GET /other/v2 answered 404"):
        target.model("double")
    target.close()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_key_goes_with_every_question(protocol: Wire) -> None:
    with FakeV2(key="k1") as server:
        address = ServerAddress.parse(getattr(server, protocol), protocol)
        known = connect(address, (("authorization", "Bearer k1"),))
        assert (known.server().name, known.ready("double"), known.model("double").name) == ("fake", True, "double")
        assert known.statistics("double")
        known.close()
        stranger = connect(address)
        for ask in (stranger.server, lambda: stranger.model("double")):
            with pytest.raises(InvalidArgument, match=r"wants another key.*who are you.*--api-key KEY, or SERVING_API_KEY"):
                ask()
        stranger.close()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_tls_trusts_what_it_is_told_to_trust(tmp_path: Path, protocol: Wire) -> None:
    with FakeV2(fake_certificate(tmp_path)) as secure:
        url = f"https://{secure.rest}" if protocol == "rest" else f"grpcs://{secure.grpc}"
        trusting = connect(ServerAddress.parse(url, protocol, Tls(str(tmp_path / "ca.pem"))))
        assert trusting.server().name == "fake"
        trusting.close()
        doubting = connect(ServerAddress.parse(url, protocol))
        with pytest.raises(Unavailable, match="cannot be reached"):
            doubting.server()
        doubting.close()


def test_files_for_tls_that_are_not_there_are_told() -> None:
    for url in ("https://h:1", "grpcs://h:1"):
        with pytest.raises(InvalidArgument, match="the files for TLS cannot be used"):
            connect(ServerAddress.parse(url, None, Tls("/nowhere/ca.pem")))
