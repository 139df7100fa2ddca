"""`serving history | rollback | events | kpis`: what was changed and has happened, and the way back."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from serving.cli.control import AWAY_S, ask, follow
from serving.cli.files import user_name
from serving.cli.moment import moment, seconds, shown
from serving.cli.options import DEFAULT_URL, Author, Json, Reason, Timeout, Url
from serving.cli.output import fail, print_json, print_lines, print_table, say

MOVED_S = 2.0
"""How long it is looked for closely whether the traffic has moved; a version that has to start takes longer."""
POLL_S = 0.02


def register(app: typer.Typer) -> None:
    app.command("history")(history)
    app.command("rollback")(rollback)
    app.command("events")(events)
    app.command("kpis")(kpis)


def history(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only what changed this model.")] = "",
    show: Annotated[int, typer.Option(min=0, help="Print the YAML of this revision as it was applied.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List revisions: when, by whom, why, and what each of them meant."""
    if show:
        found = ask("GET", url, f"/api/revisions/{show}")
        if json:
            print_json(found)
        elif not found["files"]:
            fail(f"revision {show} came without files; --json prints its target")
        else:
            print_lines(line for f in found["files"] for line in (f"# {f['name']}", f["text"].rstrip("\n")))
        return
    found = ask("GET", url, f"/api/history?{urlencode({'model': model, 'limit': limit})}")
    if json:
        print_json(found)
        return
    rows = [[r["revision"], shown(r["at"]), r["author"], r["reason"], "; ".join(r["effects"])] for r in found["revisions"]]
    print_table(["revision", "time", "author", "reason", "what it meant"], rows)


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    to: Annotated[int, typer.Option(min=0, help="Revision. Left out: the newest in which the model was another.")] = 0,
    url: Url = DEFAULT_URL,
    reason: Reason = "",
    author: Author = "",
    timeout: Timeout = 600.0,
) -> None:
    """Bring one model back to what it was in an earlier revision, as a new revision. Other models and settings stay.

    Where the old version still runs, traffic moves to it at once; else it is started from its record first, and what answers now
    answers until it is ready. A version whose files are no longer what they were is not started (exit code 1).
    """
    started = time.monotonic()
    order = {"to": to, "author": author or user_name(), "reason": reason}
    answer = ask("POST", url, f"/api/models/{quote(model, safe='')}/rollback", json=order)
    say(f"{model} goes back to revision {answer['to']}")
    stable, revision = answer["stable"], answer["revision"]
    while answer["answering"].get(model) != stable and time.monotonic() - started < min(MOVED_S, timeout):
        time.sleep(POLL_S)
        answer = ask("GET", url, "/api/status", patience_s=AWAY_S)
    if answer["answering"].get(model) == stable:
        say(f"{time.monotonic() - started:6.2f} s  every gateway sends {model} to version {stable}")
    follow(url, revision, timeout, {model})


def events(
    model: Annotated[str, typer.Option(help="Of this model only.")] = "",
    kind: Annotated[str, typer.Option(help="Of this kind only, or of those that begin so: rollback, version, replica.lost.")] = "",
    since: Annotated[str, typer.Option(help="So long ago (15m, 2h, 30d), or a date.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest.")] = 100,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no event was edited, put in or taken out.")] = False,
    head: Annotated[str, typer.Option(help="With --verify: a hash noted earlier, which has to be in the record.")] = "",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """List what was changed and what has happened, oldest first.

    Exit code of --verify: 0 the chain of hashes holds, 1 it does not. Note the head that it prints elsewhere: with --head it proves
    later that nothing up to there has been rewritten.
    """
    if verify or head:
        _verify(url, head, json)
        return
    words = {"model": model, "kind": kind, "since": moment(since) if since else 0.0, "limit": limit}
    found = ask("GET", url, f"/api/events?{urlencode(words)}")
    if json:
        print_json(found)
        return
    rows = [[e["number"], shown(e["at"]), e["kind"], e["model"], e["who"], e["what"], e["why"]] for e in found["events"]]
    print_table(["event", "time", "kind", "model", "who", "what", "why"], rows)


def kpis(
    window: Annotated[str, typer.Option(help="Of how long, until now: 7d, 12h, 4w.")] = "30d",
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Show the delivery figures, counted from the events.

    \b
    deployments          another version, or the same with other contents or resources, came to hold an
                         endpoint because of an apply; what a rollback brings back is not one
    lead time            from the apply that first declared it until it held the endpoint with all its
                         replicas (median, longest)
    change failure rate  applies that led to a deployment that the model's next change rolled back, or
                         whose new version failed to start and went no further, of all applies that led
                         to a deployment or to a failed start
    time to restore      from when the bad deployment held the endpoint until its rollback did; and how
                         long a version that held an endpoint was down (median, longest)
    """
    found = ask("GET", url, f"/api/kpis?{urlencode({'days': seconds(window) / 86_400})}")
    if json:
        print_json(found)
        return
    columns = ["model", "deployments", "a day", "lead time", "longest", "changes", "failed", "failure rate", "time to restore", "longest"]
    print_table(columns, [_figures(name, k) for name, k in [("all", found["all"]), *found["models"].items()]])


def _figures(name: str, k: dict[str, Any]) -> list[object]:
    lead, restore, rate = k["lead_time"], k["time_to_restore"], k["change_failure_rate"]
    return [
        name,
        k["deployments"],
        f"{k['deployments_per_day']:.2f}",
        _length(lead["median_s"]),
        _length(lead["longest_s"]),
        k["changes"],
        k["failures"],
        "" if rate is None else f"{100 * rate:.0f} %",
        _length(restore["median_s"]),
        _length(restore["longest_s"]),
    ]


def _length(length_s: float | None) -> str:
    if length_s is None:
        return ""
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if length_s >= 2 * size:
            return f"{length_s / size:.1f} {unit}"
    return f"{length_s:.1f} s"


def _verify(url: str, head: str, json: bool) -> None:
    found: dict[str, Any] = ask("GET", url, f"/api/events/verify?{urlencode({'head': head})}")
    if json:
        print_json(found)
    else:
        print_lines([found["problem"] or f"intact: {found['events']} events, head {found['head']}"])
    if found["problem"]:
        raise typer.Exit(1)
