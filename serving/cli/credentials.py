"""Who the command line is to an engine: the API key that it sends, and what it trusts over TLS.

The key is --api-key, else SERVING_API_KEY, else, for an engine on this machine, what lies in `admin.key` of the state directory
(the default one, or SERVING_STATE_DIR).
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import ssl
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from serving.cli.output import fail

ADMIN_FILE = "admin.key"
_told: dict[str, str] = {}
"""What was given before the command."""


def options(
    api_key: Annotated[
        str,
        typer.Option(
            envvar="SERVING_API_KEY",
            show_envvar=True,
            help="Key for the engine. Others see the options of a process: better set the variable.",
        ),
    ] = "",
    ca: Annotated[str, typer.Option(envvar="SERVING_CA", show_envvar=True, help="PEM file of the CA of an engine with TLS.")] = "",
    client_cert: Annotated[
        str, typer.Option(envvar="SERVING_CLIENT_CERT", show_envvar=True, help="PEM file to show to an engine that asks for one.")
    ] = "",
    client_key: Annotated[
        str, typer.Option(envvar="SERVING_CLIENT_KEY", show_envvar=True, help="Its private key, where that is another file.")
    ] = "",
) -> None:
    _told.update(api_key=api_key, ca=ca, client_cert=client_cert, client_key=client_key)


def given(name: str) -> str:
    """Return what was given before the command or in the environment: `api_key`, `ca`, `client_cert` or `client_key`; "" for nothing."""
    return _told.get(name, "")


def headers(url: str) -> dict[str, str]:
    """Return what shows the engine who we are; nothing where there is nothing to show."""
    key = _told.get("api_key", "") or _local_key(url)
    return {"Authorization": f"Bearer {key}"} if key else {}


def trust(url: str) -> ssl.SSLContext | bool:
    """Return what the engine's certificate is checked with, and the certificate that we show."""
    if not url.lower().startswith("https:"):
        return True
    ca, certificate, key = (_told.get(name, "") for name in ("ca", "client_cert", "client_key"))
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except OSError as error:  # SSLError is one too
        fail(f"TLS: {', '.join(filter(None, (ca, certificate, key)))}: {error.strerror or error}")
    return context


def default_state_dir() -> Path:
    """Return where an engine keeps its state that was not told otherwise."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "serving"


def _local_key(url: str) -> str:
    """Return the admin key of the engine that listens there, if it is of this state directory and lives.

    A port that its engine has left may be somebody else's by now, who must not be told the key.
    """
    folder = Path(os.environ.get("SERVING_STATE_DIR") or default_state_dir())
    try:
        boot = json.loads((Path((folder / "run").read_text()) / "boot.json").read_text())
        if urlsplit(url).port == boot["control_port"] and _is_local(url) and _is_held(folder / "lock"):
            return (folder / ADMIN_FILE).read_text().strip()
    except (OSError, ValueError, KeyError):
        pass  # another engine's, or one without access
    return ""


def _is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
