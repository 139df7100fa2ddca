"""Dialling: from an address to a socket on its way, in clear or with TLS, and what a failure is called."""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass

from serving.errors import InvalidArgument, Unavailable

WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a non-blocking socket raises when there is nothing to do now."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What to trust and what to show; empty: the system's authorities, no certificate of our own. `name` is the server's, for SNI."""

    ca_file: str = ""
    certificate: str = ""
    key: str = ""
    name: str = ""
    verify: bool = True

    def context(self, protocol: str) -> ssl.SSLContext:
        """Return a context that offers `protocol` ("http/1.1" or "h2") by ALPN."""
        made = ssl.create_default_context(cafile=self.ca_file or None)
        if self.certificate:
            made.load_cert_chain(self.certificate, self.key or None)
        if not self.verify:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        made.set_alpn_protocols([protocol])
        return made


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect, looked up once. `host` stands in the requests."""

    family: int
    target: tuple[str, int] | tuple[str, int, int, int] | str
    host: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address of "host:port", "[v6]:port" or "unix:/path". Unavailable where the name is unknown."""
        if text.startswith("unix:"):
            return cls(socket.AF_UNIX, text[5:], "localhost", "localhost")
        host, _, port = text.rpartition(":")
        name = host.removeprefix("[").removesuffix("]")
        if not name or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidArgument(f"address {text!r}, expected host:port or unix:/path")
        try:
            family, _, _, _, target = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise Unavailable(f"cannot find host {name!r}: {error.strerror}") from None
        return cls(family, target, text, name)  # type: ignore[arg-type]  # typeshed's union holds AF_PACKET's forms too

    def dial(self) -> socket.socket:
        """Return a non-blocking socket that is connecting. OSError where that fails at once."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if self.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(self.target)
        except BlockingIOError as error:
            # A Unix socket whose queue is full says EAGAIN and is not on its way.
            if error.errno == errno.EINPROGRESS:
                return sock
            sock.close()
            raise
        except OSError:
            sock.close()
            raise
        return sock


def failure(error: OSError, doing: str) -> tuple[str, str]:
    """Return the kind and the text of an error of a socket; `doing` is "connect", "send" or "receive"."""
    if isinstance(error, ssl.SSLError):
        return "tls", f"{doing}: {error.reason or error}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed", f"{doing}: {error}"
    if doing == "connect":
        name = "connect refused" if error.errno in (errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN) else "connect failed"
        return name, error.strerror or str(error)
    if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED):
        return "reset", f"{doing}: {error.strerror}"
    return "socket", f"{doing}: {error.strerror or error}"
