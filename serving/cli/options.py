"""Options that several commands have, each written once."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8003"
Url = Annotated[str, typer.Option("--url", envvar="SERVING_CONTROL_URL", help="The control API of the engine.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the revision and its events.")]
Author = Annotated[str, typer.Option(help="Who; kept with the revision. Default: your user name.")]
Timeout = Annotated[float, typer.Option(min=0, help="Longest wait, in seconds, until everything is ready or has failed; 0: do not wait.")]
