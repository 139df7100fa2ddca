"""Ports: taken ones are told with their owner and the flag that changes them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from serving.edge import listeners
from serving.errors import Unavailable

from .conftest import free_port


def test_a_taken_port_is_told_with_its_owner_and_the_flag() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable) as failure:
            listeners.probe("127.0.0.1", port, "--http-port")
    own = Path("/proc/self/comm").read_text().strip()
    assert failure.value.message == (
        f"port {port} on 127.0.0.1 cannot be opened: is in use, by {own} (pid {os.getpid()}); choose another with --http-port"
    )


def test_a_shared_listener_of_another_counts_as_taken() -> None:
    port = free_port()
    with listeners.open_tcp("127.0.0.1", port, "--x", shared=True), pytest.raises(Unavailable):
        listeners.probe("127.0.0.1", port, "--x")


def test_a_free_port_passes_and_stays_free() -> None:
    port = free_port()
    listeners.probe("127.0.0.1", port, "--x")
    listeners.open_tcp("127.0.0.1", port, "--x", shared=False).close()


def test_a_port_with_closing_connections_is_free() -> None:
    port = free_port()
    listener = listeners.open_tcp("127.0.0.1", port, "--x", shared=False)
    with listener, socket.create_connection(("127.0.0.1", port)) as client:
        served, _ = listener.accept()
        # the side that closes first keeps the port in TIME_WAIT
        served.close()
        assert client.recv(1) == b""
    listeners.probe("127.0.0.1", port, "--x")


def test_several_shared_listeners_open_on_one_port() -> None:
    port = free_port()
    with listeners.open_tcp("127.0.0.1", port, "--x", shared=True) as one, listeners.open_tcp("127.0.0.1", port, "--x", shared=True) as two:
        assert listeners.listens_on(one, "127.0.0.1", port)
        assert listeners.listens_on(two, "127.0.0.1", port)
        assert not listeners.listens_on(one, "127.0.0.1", port + 1)


def test_what_is_no_listener_is_recognised() -> None:
    with socket.socket() as idle, socket.socket(socket.AF_UNIX) as unix:
        assert not listeners.listens_on(idle, "127.0.0.1", 80)
        assert not listeners.listens_on(unix, "127.0.0.1", 80)


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(Unavailable, match="cannot assign requested address"):
        listeners.open_tcp("192.0.2.1", free_port(), "--host", shared=False)


def test_a_unix_listener_is_private_and_replaces_a_dead_one(run_dir: str) -> None:
    path = f"{run_dir}/x.sock"
    listeners.open_unix(path).close()
    assert not listeners.answers(path)
    with listeners.open_unix(path):
        assert listeners.answers(path)
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert not listeners.answers(f"{run_dir}/none.sock")


def test_a_full_unix_queue_counts_as_living(run_dir: str) -> None:
    path = f"{run_dir}/x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        clients = []
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(path)
            clients.append(client)
        assert listeners.answers(path)
        for client in clients:
            client.close()
