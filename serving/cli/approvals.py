"""`serving approvals | approve | reject`: changes that wait until somebody else agrees (`access.approval`)."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from serving.cli.control import ask, follow
from serving.cli.files import user_name
from serving.cli.moment import shown
from serving.cli.options import DEFAULT_URL, Author, Json, Reason, Timeout, Url
from serving.cli.output import print_json, print_lines, print_table, say

Number = Annotated[int, typer.Argument(metavar="PLAN", min=1, help="Number of the plan, as apply and approvals show it.")]


def register(app: typer.Typer) -> None:
    app.command("approvals")(approvals)
    app.command("approve")(approve)
    app.command("reject")(reject)


def approvals(
    number: Annotated[int, typer.Argument(metavar="[PLAN]", min=0, help="Show one: what it does, and its YAML.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Those that have been decided, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest.")] = 100,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List the changes that wait for an approval: of what, by whom, why, and what they do."""
    if number:
        found = ask("GET", url, f"/api/approvals/{number}")
        if json:
            print_json(found)
        else:
            _print_one(found)
        return
    found = ask("GET", url, f"/api/approvals?{urlencode({'state': '' if every else 'pending', 'limit': limit})}")
    if json:
        print_json(found)
        return
    rows = [
        [a["number"], a["state"], shown(a["at"]), a["author"], ", ".join(a["models"]), a["reason"], "; ".join(a["effects"]), a["by"]]
        for a in found["approvals"]
    ]
    print_table(["plan", "state", "time", "author", "models", "reason", "what it does", "decided by"], rows)


def approve(number: Number, url: Url = DEFAULT_URL, reason: Reason = "", author: Author = "", timeout: Timeout = 600.0) -> None:
    """Agree to a change that somebody else has asked for; it is made now.

    It is refused (exit code 1) when a model that it changes, or a file of one, is no longer what it was.
    """
    answer = ask("POST", url, f"/api/approvals/{number}/approve", json={"reason": reason, "author": author or user_name()})
    follow(url, answer["revision"], timeout, set(answer["approval"]["models"]))


def reject(number: Number, url: Url = DEFAULT_URL, reason: Reason = "", author: Author = "") -> None:
    """Refuse a change that waits; who has asked for it may withdraw it."""
    ask("POST", url, f"/api/approvals/{number}/reject", json={"reason": reason, "author": author or user_name()})
    say(f"plan {number} is rejected")


def _print_one(found: dict[str, Any]) -> None:
    decided = f", {found['state']} by {found['by']}" if found["by"] else f", {found['state']}"
    print_lines([f"plan {found['number']} by {found['author']} at {shown(found['at'])}{decided}: {found['reason']}"])
    print_lines(f"  {effect}" for effect in found["effects"])
    print_lines(line for f in found["files"] for line in ("", f"# {f['name']}", f["text"].rstrip("\n")))
