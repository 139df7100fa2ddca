"""`serving plan | diff`: what applying files would do; where the engine differs from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.control import ask
from serving.cli.files import declared, texts
from serving.cli.junit import Case, write_junit
from serving.cli.options import DEFAULT_URL, Json, Url
from serving.cli.output import print_json, print_lines, print_table
from serving.cli.saved_plan import SavedPlan
from serving.plan import Drift, Target, World, drift, fingerprint, outlook

CHANGES = 3
"""Exit code where there is something to change."""
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files that declare one engine together.")]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML, for CI.")]


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)
    app.command("diff")(diff)


def plan(
    files: Files,
    url: Url = DEFAULT_URL,
    offline: Annotated[bool, typer.Option("--offline", help="Against an engine where nothing runs; asks none.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="As apply --replace: other models end.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the plan; `serving apply FILE` does it, or refuses.")] = None,
    json: Json = False,
    junit: Junit = None,
) -> None:
    """Tell what applying the files would do, and do nothing.

    Exit code 0: there is nothing to change, 3: there are changes, 1: a file is wrong, no engine answers, or a version finds no room.
    """
    target = _declared(files, junit, "serving plan")
    if offline:
        found = {"base": {"revision": 0, "fingerprint": fingerprint(Target())}, **outlook(target, World()).to_json()}
    else:
        found = ask("POST", url, "/api/plan", json={"target": target.to_json(), "replace": replace})
    if out:
        base = found.pop("base")
        SavedPlan(target.to_json(), replace, [{"name": n, "text": t} for n, t in texts(files)], base, found).write(out)
        found = {"base": base, **found}
    if junit:
        write_junit(junit, "serving plan", _room_cases(target, found))
    if json:
        print_json(found)
    else:
        _print(found, offline)
    if found["unfit"]:
        raise typer.Exit(1)
    if found["changes"]:
        raise typer.Exit(CHANGES)


def diff(
    files: Files,
    url: Url = DEFAULT_URL,
    whole: Annotated[bool, typer.Option("--whole", help="The files are all that should run: other models are drift.")] = False,
    json: Json = False,
    junit: Junit = None,
) -> None:
    """Show where the engine differs from the files, value by value: what it was told, and versions that are not ready.

    Exit code 0: it is as the files say, 3: it is not, 1: a file is wrong or no engine answers.
    """
    target = _declared(files, junit, "serving diff")
    running = Target.from_json(ask("GET", url, "/api/target"))
    found = drift(target, running, whole)
    found += _not_ready(target, running, ask("GET", url, "/api/status"))
    if junit:
        places = {*target.routes.routes} | ({*running.routes.routes} if whole else set())
        write_junit(junit, "serving diff", _drift_cases(sorted(places), found))
    if json:
        print_json({"drift": [d.to_json() for d in found]})
    elif found:
        print_table(["place", "file", "engine"], [[d.place, _shown(d.declared), _shown(d.running)] for d in found])
    else:
        print_lines(["the engine is as the files say"])
    if found:
        raise typer.Exit(CHANGES)


def _declared(files: list[Path], junit: Path | None, suite: str) -> Target:
    """Return what the files declare; where they are wrong CI sees that, too, and no report of an earlier run."""

    def refused(problems: list[str]) -> None:
        if junit:
            write_junit(junit, suite, [("the files are valid", "\n".join(problems))])

    return declared(files, refused)


def _print(found: dict[str, Any], offline: bool) -> None:
    base = "nothing that runs" if offline else f"revision {found['base']['revision']}"
    changes = found["changes"]
    print_lines([f"{len(changes)} change{'' if len(changes) == 1 else 's'} against {base}" if changes else f"nothing to change ({base})"])
    print_lines(f"  {c['effect']}" for c in changes)
    if found["traffic"]:
        print_lines([""])
        print_table(["endpoint", "traffic before", "traffic after"], [[t["endpoint"], t["before"], t["after"]] for t in found["traffic"]])
    if found["resources"]:
        print_lines([""])
        rows = [[r["name"], f"{r['takes']:g}", f"{r['free']:g}", f"{r['gives_back']:g}", f"{r['total']:g}"] for r in found["resources"]]
        print_table(["resource", "new ones take", "free now", "old ones give back", "cluster has"], rows)
    if found["changes"]:
        print_lines(["", f"restarts: {', '.join(found['restarts']) or 'none'}"])
    if found.get("approval"):
        print_lines([f"has to be approved by somebody else: {', '.join(found['approval'])}"])
    print_lines(f"does not fit: {u['key']} {u['reason']}" for u in found["unfit"])


def _room_cases(target: Target, found: dict[str, Any]) -> list[Case]:
    unfit = {u["key"]: u["reason"] for u in found["unfit"]}
    return [(f"{d.key} finds room", unfit.get(d.key, "")) for d in target.deployments]


def _drift_cases(models: list[str], found: list[Drift]) -> list[Case]:
    """Return a case for each model, and one for the settings."""
    lines = {d.place: f"{d.place}: file {_shown(d.declared)}, engine {_shown(d.running)}" for d in found}
    cases = [(f"{m} is as declared", "\n".join(t for p, t in lines.items() if f"{p}.".startswith(f"models.{m}."))) for m in models]
    return [*cases, ("settings are as declared", "\n".join(t for p, t in lines.items() if not p.startswith("models.")))]


def _not_ready(target: Target, running: Target, status: dict[str, Any]) -> list[Drift]:
    """Return the declared versions that the engine was told of and that do not answer."""
    mine = {d.key for d in target.deployments} & {d.key for d in running.deployments}
    rows = [v for v in status["versions"] if f"{v['model']}/{v['version']}" in mine and v["state"] != "ready"]
    return [Drift(f"models.{v['model']}.versions.{v['version']}.state", "ready", f"{v['state']} {v['reason']}".strip()) for v in rows]


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict) and "artefact" in value:
        return str(value["artefact"])
    if isinstance(value, dict):
        return "declared" if "traffic" in value else ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "none"
    return str(value)[:80]
