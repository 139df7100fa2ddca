"""`serving keys create | list | revoke`: API keys of a running engine."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from serving.cli.control import ask
from serving.cli.files import user_name
from serving.cli.moment import seconds
from serving.cli.options import DEFAULT_URL, Json, Url
from serving.cli.output import fail, print_json, print_lines, print_table, say


def register(app: typer.Typer) -> None:
    keys = typer.Typer(help="API keys: make, list and end them.", no_args_is_help=True)
    keys.command("create")(create)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key; events show it.")],
    role: Annotated[str, typer.Option(help="viewer, predictor, deployer, approver or admin; each includes those before it.")] = "predictor",
    models: Annotated[str, typer.Option(help="For these models only: names with commas between, * as wildcard. Left out: all.")] = "",
    grant: Annotated[list[str] | None, typer.Option(help="More roles, as ROLE:MODEL,MODEL. May be given several times.")] = None,
    expires: Annotated[str, typer.Option(help="How long it holds: 12h, 30d, 1y. Left out: until it is revoked.")] = "",
    rate: Annotated[float, typer.Option(min=0, help="Predictions a second, of all gateways together; 0: no limit.")] = 0.0,
    burst: Annotated[int, typer.Option(min=0, help="How many of them may come at once; 0: those of one second.")] = 0,
    inflight: Annotated[int, typer.Option(min=0, help="Predictions under way, in all gateways together; 0: no limit.")] = 0,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Make a key. It is printed once and kept nowhere."""
    order = {
        "name": name, "grants": [f"{role}:{models}" if models else role, *(grant or [])], "expires_s": _length(expires),
        "requests_per_s": rate, "burst": burst, "inflight_requests": inflight, "author": user_name(),
    }  # fmt: skip
    answer = ask("POST", url, "/api/keys", json=order)
    if json:
        print_json(answer)
        return
    say(f"key {answer['name']}: {', '.join(answer['grants'])}{_until(answer['expires'])}; it is not shown again")
    if not answer["everywhere"]:
        say("not every gateway knows it yet")
    print_lines([answer["key"]])


def list_keys(url: Url = DEFAULT_URL, json: Json = False) -> None:
    """Show all keys: whose, what for, until when."""
    answer = ask("GET", url, "/api/keys")
    if json:
        print_json(answer)
        return
    if not answer["access"]:
        say("access is off: nobody is asked for a key")
    if answer["problem"]:
        say(answer["problem"])
    rows = [
        [k["name"], k["id"], k["state"], " ".join(k["grants"]), _quota(k), _day(k["expires"]), _day(k["created"]), k["by"]]
        for k in answer["keys"]
    ]
    print_table(["name", "id", "state", "grants", "quota", "expires", "created", "by"], rows)


def revoke(name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the key.")], url: Url = DEFAULT_URL) -> None:
    """End a key. When this returns, every gateway refuses it."""
    answer: dict[str, Any] = ask("DELETE", url, f"/api/keys/{quote(name, safe='')}?{urlencode({'author': user_name()})}")
    if not answer["everywhere"]:
        fail(f"{answer['name']} is revoked, and not every gateway has answered yet; they learn it when they do")
    say(f"{answer['name']} is revoked")


def _length(text: str) -> float:
    if text and not seconds(text):
        raise typer.BadParameter("a key that expires at once is none", param_hint="--expires")
    return seconds(text) if text else 0.0


def _quota(key: dict[str, Any]) -> str:
    rate, burst, inflight = (key[name] for name in ("requests_per_s", "burst", "inflight_requests"))
    said = [f"{rate:g}/s" if rate else "", f"burst {burst}" if rate and burst else "", f"{inflight} under way" if inflight else ""]
    return ", ".join(filter(None, said))


def _until(at: float) -> str:
    return f", until {_day(at)}" if at else ""


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else ""
