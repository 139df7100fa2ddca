"""Certificates for tests: two authorities, each with certificates for a server and a client."""

from __future__ import annotations

from pathlib import Path

from serving.cli.certs import init, issue


def two_authorities(folder: Path) -> Path:
    """Make `one/` and `two/` in the folder, and return it. Servers are localhost and 127.0.0.1."""
    for ca in ("one", "two"):
        init(folder / ca, ca)
        issue("server", folder / ca, host=["localhost", "127.0.0.1"])
        issue("client", folder / ca, client=True)
    return folder
