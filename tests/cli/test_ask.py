"""Commands ask the control API: what they say where nobody answers, and how they follow an order while the controller is away."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import typer

from serving.cli.control import ask, follow

SETTLED = {"revision": 3, "settled": True, "versions": [], "failed": [], "waiting": [], "answering": {}}


@contextmanager
def answers(*bodies: object) -> Iterator[str]:
    """An address where one connection after the other gets a body; None: it is closed without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)

        def serve() -> None:
            for body in bodies:
                connection, _ = listening.accept()
                with connection:
                    if body is not None:
                        connection.recv(65536)
                        text = json.dumps(body).encode()
                        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(text), text))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(20)
        assert not thread.is_alive(), "it was asked less often than it should have been"


def test_an_order_is_followed_while_the_controller_is_away() -> None:
    with answers({**SETTLED, "settled": False}, None, None, SETTLED) as url:
        follow(url, 3, 60.0)


def test_a_question_that_nobody_answers_is_asked_once(capsys: pytest.CaptureFixture[str]) -> None:
    with answers(None) as url, pytest.raises(typer.Exit):
        ask("GET", url, "/api/status")
    said = capsys.readouterr().err
    assert "no engine answers at" in said
    assert f"--url https://{url.removeprefix('http://')}" in said
