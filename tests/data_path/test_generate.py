"""`generate` and `generate_stream` over the wire: bodies, server-sent events, errors, keep-alive, slow clients and those that go."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from typing import Any

import pytest

from .rig import DataPath, wait_for
from .test_decoupled import at, note

SPEAK = {"PROMPT": "hello world", "STREAM": True}


class Client:
    """A connection that is kept."""

    def __init__(self, path: DataPath) -> None:
        host, port = path.rest.split(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=10)

    def post(self, verb: str, fields: Any, model: str = "speak") -> http.client.HTTPResponse:
        text = fields if isinstance(fields, (str, bytes)) else json.dumps(fields)
        self.connection.request("POST", f"/v2/models/{model}/{verb}", text)
        return self.connection.getresponse()


@pytest.fixture
def client(path: DataPath) -> Any:
    one = Client(path)
    yield one
    one.connection.close()


def events(answer: http.client.HTTPResponse) -> list[dict[str, Any]]:
    """Return the events of a stream. Fails where it is anything else."""
    assert answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    assert answer.getheader("Transfer-Encoding") == "chunked"
    text = answer.read()
    blocks = text.split(b"\n\n")
    assert blocks.pop() == b""
    assert all(block.startswith(b"data: ") and b"\n" not in block for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def test_one_answer(client: Client) -> None:
    for _ in range(3):
        answer = client.post("generate", {**SPEAK, "id": "x"})
        assert (answer.status, answer.getheader("Content-Type")) == (200, "application/json")
        assert json.loads(answer.read()) == {"id": "x", "model_name": "speak", "model_version": "1", "TEXT": "hello world", "n": 0}
    answer = client.post("generate", {"x": [1, 2, 3, 4], "more": 1}, model="echo_fp32")
    assert json.loads(answer.read()) == {"model_name": "echo_fp32", "model_version": "1", "y": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize("times", [0, 2, 500])
def test_generate_wants_exactly_one(client: Client, times: int) -> None:
    answer = client.post("generate", {**SPEAK, "REPETITION": times})
    assert answer.status == 500
    assert "generate expects model to produce exactly 1 response" in json.loads(answer.read())["error"]
    assert client.post("generate", SPEAK).status == 200


@pytest.mark.parametrize("times", [0, 1, 3, 1000])
def test_events_and_the_connection_stays(client: Client, times: int) -> None:
    for _ in range(2):
        answer = client.post("generate_stream", {**SPEAK, "parameters": {"REPETITION": times}})
        assert answer.status == 200
        assert events(answer) == [{"model_name": "speak", "model_version": "1", "TEXT": "hello world", "n": n} for n in range(times)]


def test_an_ordinary_model_gives_one_event(client: Client) -> None:
    assert events(client.post("generate_stream", {"x": 5}, model="echo_fp32")) == [
        {"model_name": "echo_fp32", "model_version": "1", "y": 5.0}
    ]


def test_pipelined_streams_come_one_after_the_other(path: DataPath) -> None:
    host, port = path.rest.split(":")
    text = json.dumps({**SPEAK, "REPETITION": 3}).encode()
    head = b"POST /v2/models/speak/generate_stream HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text)
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall((head + text) * 3)
        got = b""
        while got.count(b"\r\n0\r\n\r\n") < 3:
            got += sock.recv(65536)
    assert [part.count(b"data: {") for part in got.split(b"HTTP/1.1 200 OK")] == [0, 3, 3, 3]


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({}, 400, "expected 2 inputs but got 0"),
        ({"PROMPT": 123, "STREAM": False}, 400, "attempt to access JSON non-string as string"),
        ("nonsense", 400, "failed to parse the request JSON buffer"),
        ({**SPEAK, "REPETITION": 0, "FAIL_LAST": True}, 500, "An Error Occurred"),
    ],
)
def test_an_error_before_the_first_answer(client: Client, verb: str, fields: Any, status: int, says: str) -> None:
    for _ in range(2):
        answer = client.post(verb, fields)
        assert (answer.status, answer.getheader("Content-Type")) == (status, "application/json")
        assert says in json.loads(answer.read())["error"]


def test_other_refusals(client: Client) -> None:
    answer = client.post("generate", SPEAK, model="nobody")
    assert (answer.status, b"unknown model" in answer.read()) == (404, True)
    client.connection.request("GET", "/v2/models/speak/generate")
    answer = client.connection.getresponse()
    assert (answer.status, answer.read()) == (405, b'{"error":"Method Not Allowed"}')
    client.connection.request("POST", "/v2/models/speak/generate_stream", b"x", {"Content-Encoding": "gzip"})
    answer = client.connection.getresponse()
    assert (answer.status, answer.getheader("Accept-Encoding")) == (415, "identity")
    assert b"Unsupported compression type" in answer.read()
    answer = client.post("infer", {"inputs": []})
    assert answer.status == 501
    assert json.loads(answer.read()) == {"error": "HTTP end point doesn't support models with decoupled transaction policy"}


def test_an_error_behind_answers_is_an_event(client: Client) -> None:
    answer = client.post("generate_stream", {**SPEAK, "REPETITION": 2, "FAIL_LAST": True})
    assert answer.status == 200
    assert [event.get("TEXT", event.get("error")) for event in events(answer)] == [
        "hello world", "hello world", "An Error Occurred",
    ]  # fmt: skip
    assert client.post("generate", SPEAK).status == 200


def test_http_1_0_gets_its_events_until_the_end(path: DataPath) -> None:
    host, port = path.rest.split(":")
    text = json.dumps({**SPEAK, "REPETITION": 2}).encode()
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(b"POST /v2/models/speak/generate_stream HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        got = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, rest = got.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert rest.startswith(b"data: {")
    assert rest.count(b"\n\n") == 2


def test_curl(path: DataPath) -> None:
    command = ["curl", "-sN", f"http://{path.rest}/v2/models/speak/generate_stream", "-d", json.dumps({**SPEAK, "REPETITION": 3})]
    text = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    assert [json.loads(line[6:])["n"] for line in text.splitlines() if line] == [0, 1, 2]


def test_a_client_that_closes_closes_the_generator(path: DataPath) -> None:
    """Also one whose model has nothing to say at the moment: the end of file is enough."""
    name = f"sse-gone-{path.config.edge}"
    path.gate.touch()
    client = Client(path)
    answer = client.post("generate_stream", {"n": 1000, "name": name, "gate": True}, model="count")
    assert json.loads(answer.readline()[6:])["i"] == 0
    wait_for(lambda: path.open("count") == 1)
    answer.close()
    client.connection.close()
    wait_for(lambda: not any(m.server._host.service.calls.admission.inflight_requests for m in path.members if m.server._host))
    path.open_gate()
    wait_for(lambda: note(path, name) == "closed")
    wait_for(lambda: path.open("count") == 0)
    assert at(path, name) < 999


def test_a_client_that_does_not_read_holds_the_model_back(path: DataPath) -> None:
    name = f"sse-slow-{path.config.edge}"
    client = Client(path)
    answer = client.post("generate_stream", {"n": 500, "name": name, "width": 20_000}, model="count")
    wait_for(lambda: at(path, name) >= 10)
    other = Client(path)
    for _ in range(3):
        assert [event["i"] for event in events(other.post("generate_stream", {"n": 300}, model="count"))] == list(range(300))
    other.connection.close()
    assert at(path, name) < 350
    assert [event["i"][0] for event in events(answer)] == list(range(500))
    client.connection.close()
    assert note(path, name) == "finished"
