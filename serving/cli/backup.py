"""`serving backup | restore`: the record of an engine in one file, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import httpx
import typer

from serving.cli.credentials import headers, trust
from serving.cli.files import user_name
from serving.cli.options import DEFAULT_URL, Url
from serving.cli.output import fail, say
from serving.control import backup as archive
from serving.errors import ServingError

MAKING_S = 600.0


def register(app: typer.Typer) -> None:
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .tar file to write.")],
    artefacts: Annotated[bool, typer.Option("--artefacts", help="With the files of the models of the newest revision.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Save the record of a running engine: revisions with their YAML, events, keys (as hashes), as they are at one moment."""
    draft = file.with_name(f"{file.name}.draft")
    try:
        with (
            httpx.Client(verify=trust(url), trust_env=False, timeout=httpx.Timeout(30.0, read=MAKING_S)) as client,
            client.stream("POST", f"{url.rstrip('/')}/api/backup", json={"artefacts": artefacts}, headers=headers(url)) as answer,
        ):
            if answer.is_error:
                answer.read()
                fail(str(answer.json().get("error", answer.status_code)) if "json" in answer.headers["content-type"] else answer.text)
            draft.touch(0o600)
            with draft.open("wb") as stream:
                for chunk in answer.iter_bytes():
                    stream.write(chunk)
        draft.replace(file)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        draft.unlink(missing_ok=True)
        fail(f"no backup from {url}: {error}")
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror}")
    say(f"{file}: {file.stat().st_size} bytes")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `serving backup` wrote.")],
    state_dir: Annotated[Path, typer.Option(help="A state directory without a state; `serving up --state-dir` serves it then.")],
) -> None:
    """Put a backup into an empty state directory. Everything in it is held against its digest, and the events against their chain."""
    try:
        found = archive.restore(file, state_dir.absolute(), user_name(), time.time())
    except ServingError as error:
        fail(error.message)
    say(f"{state_dir}: revision {found['revision']}, {found['events']} events")
    for line in found["said"]:
        say(line)
