"""ServerCertificate: certificate, key and clients' CA of a server, from PEM files that are read again when they change.

Handshakes in progress and connections that are open keep what they began with; the next handshake gets the new one. What cannot be used
(a key that does not fit, half a file) changes nothing: the last good one serves on, and the log says why.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from serving.errors import InvalidArgument

log = logging.getLogger(__name__)

POLL_S = 1.0


class ServerCertificate:
    """The files of one server. key "": it is in the certificate's file. client_ca "": clients need none."""

    def __init__(self, certificate: str, key: str = "", client_ca: str = "") -> None:
        """Raises InvalidArgument where the files cannot be used."""
        self._files = certificate, key, client_ca
        self._stamp = self._look()
        try:
            self._newest = self._read()
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"TLS: {_said(error, certificate)}") from error
        self.context = self._newest
        """For a server; hands each handshake to what was read last."""
        self.context.sni_callback = self._choose
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def pem(self) -> bytes:
        """Return certificate and key as one file has them. Raises OSError."""
        certificate, key, _ = self._files
        return b"\n".join(Path(file).read_bytes() for file in (certificate, key) if file)

    def client_ca_pem(self) -> bytes:
        """Return the clients' CA, b"" where clients need none. Raises OSError."""
        return Path(self._files[2]).read_bytes() if self._files[2] else b""

    def renew(self) -> bool:
        """Read the files again if they have changed; return whether there is something new that can be used."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        try:
            newest = self._read()
        except (OSError, ValueError) as error:
            # perhaps the key comes after its certificate: the next look decides
            log.warning("TLS: %s; the last good certificate serves on", _said(error, self._files[0]))
            return False
        self._stamp, self._newest = stamp, newest
        log.info("TLS: %s was read again", self._files[0])
        return True

    def follow(self, renewed: Callable[[], object] | None = None, poll_s: float = POLL_S) -> None:
        """Look after the files in a thread of its own from now on; `renewed` is called in it after each change."""

        def turn() -> None:
            while not self._ended.wait(poll_s):
                if self.renew() and renewed is not None:
                    renewed()

        self._thread = threading.Thread(target=turn, name="certificates", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _choose(self, handshake: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._newest

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(file) for file in self._files if file)

    def _read(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # a password would be asked for on the terminal
        context.load_cert_chain(certificate, key or None, password="")
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            # a resumed session would not be asked for its certificate again
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
        return context


def _stamp(file: str) -> tuple[int, int, int] | None:
    try:
        seen = os.stat(file)
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _said(error: Exception, file: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{file} and its key cannot be used: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, OSError):
        return f"{error.filename or file}: {error.strerror}"
    return f"{file}: {error}"
