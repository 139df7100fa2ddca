"""`serving apply | status | delete | down`: talk to the engine's control API over HTTP."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import httpx
import typer

from serving.cli.credentials import headers, trust
from serving.cli.files import declared, texts, user_name
from serving.cli.options import DEFAULT_URL, Author, Json, Reason, Timeout, Url
from serving.cli.output import fail, print_json, print_lines, print_table, say
from serving.cli.saved_plan import SavedPlan

POLL_S = 0.25
WAITS = 4
"""Exit code of a change that waits for an approval."""
AWAY_S = 30.0
"""How long a controller may be away, once it has taken an order: a killed one is back after some seconds, and goes on with it."""


def register(app: typer.Typer) -> None:
    app.command("apply")(apply)
    app.command("status")(status)
    app.command("delete")(delete)
    app.command("down")(down)


def apply(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files, or one plan that `serving plan --out` saved.")],
    url: Url = DEFAULT_URL,
    replace: Annotated[bool, typer.Option("--replace", help="Serve only what the files declare; other models end.")] = False,
    reason: Reason = "",
    author: Author = "",
    timeout: Timeout = 600.0,
) -> None:
    """Bring a running engine to what the files declare. Models that they do not name stay as they are.

    Where `access.approval` names a model of them, nothing happens until somebody else agrees: exit code 4, and `serving approve`.
    A saved plan is refused when the engine, or a file of a model in it, is no longer what it was when the plan was made.
    """
    if len(files) == 1 and (saved := SavedPlan.read(files[0])):
        order = saved.order()
    else:
        target = declared(files)
        order = {"target": target.to_json(), "replace": replace, "texts": [{"name": n, "text": t} for n, t in texts(files)]}
    names = ", ".join(str(f) for f in files)
    order |= {"author": author or user_name(), "reason": reason or f"apply {names}"}
    answer = ask("POST", url, "/api/apply", json=order)
    _wait_for_approval(answer)
    follow(url, answer["revision"], timeout, {route[0] for route in order["target"]["routes"]["routes"]})


def status(url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show what runs. Exit code 0: every model answers, 1: not."""
    answer = ask("GET", url, "/api/status")
    if json:
        print_json(answer)
    else:
        _print_status(answer)
    if not answer["ready"] or answer["failed"]:
        raise typer.Exit(1)


def delete(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    url: Url = DEFAULT_URL,
    reason: Reason = "",
    author: Author = "",
    timeout: Timeout = 600.0,
) -> None:
    """End a model: its endpoint at once, its replicas when they have answered what they have."""
    words = urlencode({"author": author or user_name(), "reason": reason})
    answer = ask("DELETE", url, f"/api/models/{quote(model, safe='')}?{words}")
    _wait_for_approval(answer)
    follow(url, answer["revision"], timeout)


def down(url: Url = DEFAULT_URL, timeout: Timeout = 120.0) -> None:
    """End the engine: drain, then stop everything that `up` has started."""
    ask("POST", url, "/api/down", json={})
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            httpx.get(f"{url}/api/ready", timeout=2.0, verify=trust(url), trust_env=False)
        except httpx.TransportError:
            say("the engine drains and ends")
            return
        time.sleep(POLL_S)
    if timeout:
        fail(f"the engine at {url} still answers after {timeout:g} s")


def _print_status(answer: dict[str, Any]) -> None:
    rows = []
    for v in answer["versions"]:
        replicas = f"{v['running']}/{v['wanted']}"
        rows.append(
            [v["model"], v["version"], v["state"], replicas, "yes" if v["stable"] else "", v["traffic"], v["reason"] or v["description"]]
        )
    print_table(["model", "version", "state", "replicas", "stable", "traffic", "about"], rows)
    gateways, wanted = len(answer["gateways"]), answer["gateways_wanted"]
    print_lines(["", f"revision {answer['revision']} · gateways {gateways}/{wanted} · {answer['urls']['rest']} · {answer['urls']['grpc']}"])
    print_lines(f"waiting: {line}" for line in answer["waiting"])


def follow(url: str, revision: int, timeout_s: float, models: Collection[str] = ()) -> None:
    """Say how these models come up, until everything is settled. Ends the command with 1 where one has failed or the time is over."""
    say(f"revision {revision}")
    started = time.monotonic()
    told: dict[str, str] = {}
    while True:
        answer = ask("GET", url, "/api/status", patience_s=AWAY_S if timeout_s else 0.0)
        for v in answer["versions"]:
            key, state = f"{v['model']}/{v['version']}", v["state"]
            if v["model"] in models and told.get(key) != state:
                told[key] = state
                say(f"{time.monotonic() - started:6.1f} s  {key} {state}" + (f": {v['reason']}" if v["reason"] else ""))
        if answer["revision"] >= revision and (answer["settled"] or _only_failed_are_left(answer, models)):
            break
        if not timeout_s:
            return
        if time.monotonic() - started > timeout_s:
            fail(f"not settled after {timeout_s:g} s: {'; '.join(answer['waiting'])}")
        time.sleep(POLL_S)
    if failed := [key for key in answer["failed"] if key.split("/")[0] in models]:
        goes_on = [f"{model} is answered by version {v}" for model, v in answer["answering"].items() if model in models]
        fail("; ".join([f"failed: {', '.join(failed)}", *goes_on]))


def _wait_for_approval(answer: dict[str, Any]) -> None:
    """End the command with WAITS where somebody else has to agree first."""
    if waits := answer.get("approval"):
        say(f"plan {waits['number']} waits for an approval ({', '.join(waits['models'])}): serving approve {waits['number']}")
        raise typer.Exit(WAITS)


def _only_failed_are_left(answer: dict[str, Any], models: Collection[str]) -> bool:
    """Whether all that these models still wait for is a version that has failed; what answered before goes on meanwhile."""
    states = {v["state"] for v in answer["versions"] if v["model"] in models}
    return "failed" in states and "starting" not in states


def ask(method: str, url: str, path: str, json: Any = None, patience_s: float = 0.0) -> dict[str, Any]:
    """Return the API's answer; what went wrong ends the command with one sentence.

    patience_s  for how long it is asked again where nobody answers; only for what may be asked twice
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            response = httpx.request(
                method, url.rstrip("/") + path, json=json, headers=headers(url), verify=trust(url), timeout=30.0, trust_env=False
            )
            break
        except httpx.InvalidURL as error:
            fail(f"{url} is not a URL: {error}")
        except httpx.TransportError as error:
            if time.monotonic() > end:
                fail(f"no engine answers at {url} ({error}); {_hint(url, error)}")
            time.sleep(POLL_S)
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        fail(f"{url} is not the control API of an engine: it answered {response.status_code} without JSON")
    if response.is_error:
        hint = "; give --api-key or set SERVING_API_KEY" if response.status_code == 401 else ""
        fail(str(body.get("error", f"the engine answered {response.status_code}")) + hint)
    return body


def _hint(url: str, error: httpx.TransportError) -> str:
    if url.startswith("http://") and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return f"does it speak TLS? Then it is --url https://{url.removeprefix('http://')}"
    return "is it up? --url or SERVING_CONTROL_URL name another"
