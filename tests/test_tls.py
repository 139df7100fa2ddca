"""ServerCertificate: what handshakes get, before and after the files change."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import InvalidArgument
from serving.tls import ServerCertificate
from tests.certificates import two_authorities


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_authorities(tmp_path_factory.mktemp("certs"))


@pytest.fixture
def files(made: Path, tmp_path: Path) -> Path:
    """The files of a server: of the first CA, with clients of the first CA."""
    put(made, "one", tmp_path)
    return tmp_path


def put(made: Path, ca: str, to: Path) -> None:
    for name in ("server.key", "server.pem", "ca.pem"):
        shutil.copy(made / ca / name, to / name)


def certificate(files: Path, client_ca: bool = False) -> ServerCertificate:
    return ServerCertificate(str(files / "server.pem"), str(files / "server.key"), str(files / "ca.pem") if client_ca else "")


class Server:
    """Answers each connection with what it was sent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._context = context
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._context.wrap_socket(connection, server_side=True) as talk:
                while data := talk.recv(100):
                    talk.sendall(data)
        except OSError:
            connection.close()

    def close(self) -> None:
        self._listener.close()


def connect(server: Server, ca: Path, own: Path | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(ca))
    if own is not None:
        context.load_cert_chain(own.with_suffix(".pem"), own.with_suffix(".key"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain:
        talk = context.wrap_socket(plain, server_hostname="localhost")
    try:
        assert echo(talk)
    except OSError:
        talk.close()
        raise
    return talk


def echo(talk: ssl.SSLSocket) -> bool:
    talk.sendall(b"hello")
    return talk.recv(100) == b"hello"


@pytest.fixture
def open_sockets() -> Iterator[list[ssl.SSLSocket]]:
    found: list[ssl.SSLSocket] = []
    yield found
    for one in found:
        one.close()


def test_a_renewed_certificate_is_shown_to_those_who_come_then(files: Path, made: Path, open_sockets: list[ssl.SSLSocket]) -> None:
    shown = certificate(files)
    server = Server(shown.context)
    open_sockets.append(old := connect(server, made / "one" / "ca.pem"))
    assert not shown.renew(), "nothing has changed"
    put(made, "two", files)
    assert shown.renew()
    open_sockets.append(connect(server, made / "two" / "ca.pem"))
    with pytest.raises(ssl.SSLError):
        connect(server, made / "one" / "ca.pem")
    assert echo(old), "who was there stays"
    server.close()


def test_what_cannot_be_used_changes_nothing(
    files: Path, made: Path, open_sockets: list[ssl.SSLSocket], caplog: pytest.LogCaptureFixture
) -> None:
    shown = certificate(files)
    server = Server(shown.context)
    shutil.copy(made / "two" / "server.key", files / "server.key")
    assert not shown.renew(), "the key does not fit yet"
    assert "key values mismatch" in caplog.text
    (files / "server.pem").write_text("half a fi")
    assert not shown.renew()
    open_sockets.append(connect(server, made / "one" / "ca.pem"))
    put(made, "two", files)
    assert shown.renew()
    server.close()


def test_clients_have_to_be_of_their_ca_and_of_the_new_one_when_it_changes(
    files: Path, made: Path, open_sockets: list[ssl.SSLSocket]
) -> None:
    shown = certificate(files, client_ca=True)
    server = Server(shown.context)
    ca = made / "one" / "ca.pem"
    open_sockets.append(connect(server, ca, made / "one" / "client"))
    for wrong in (None, made / "two" / "client"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(server, ca, wrong)
    shutil.copy(made / "two" / "ca.pem", files / "ca.pem")
    assert shown.renew()
    open_sockets.append(connect(server, ca, made / "two" / "client"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(server, ca, made / "one" / "client")
    server.close()


def test_old_tls_is_not_spoken(files: Path) -> None:
    assert certificate(files).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_files_are_followed(files: Path, made: Path) -> None:
    shown, renewed = certificate(files), threading.Event()
    shown.follow(renewed.set, poll_s=0.01)
    put(made, "two", files)
    assert renewed.wait(60)
    shown.close()


def test_what_is_no_certificate_is_named(files: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"gone\.pem: No such file"):
        ServerCertificate(str(files / "gone.pem"))
    with pytest.raises(InvalidArgument, match=r"ca\.pem and its key cannot be used"):
        ServerCertificate(str(files / "ca.pem"))
