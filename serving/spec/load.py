"""load: YAML files → Target, or everything that is wrong with them. Several files are one declaration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serving.plan import DeploymentTarget, Target
from serving.routing import Route, RouteTable
from serving.spec import lower
from serving.spec.checked import CheckedFile
from serving.spec.document import Document
from serving.spec.face import EngineFace
from serving.spec.inherit import Inherited
from serving.spec.problem import Finding, InvalidSpec, Problem, dotted
from serving.spec.problem import Path as Place
from serving.spec.rules import engine_findings, model_findings
from serving.spec.security import located, security_findings


@dataclass(frozen=True, slots=True)
class Source:
    """YAML text. `file` is how problems name it; paths in it start from `folder`. generated: its lines are nothing to people."""

    file: str
    text: str
    folder: Path
    generated: bool = False


def load(files: Iterable[str | Path], others: Sequence[Source] = ()) -> Target:
    """Return what the files and the `others` declare together. Raises InvalidSpec with every problem of all of them."""
    sources = list(others)
    problems: list[Problem] = []
    for file in files:
        try:
            sources.append(_read(Path(file)))
        except InvalidSpec as invalid:
            problems += invalid.problems
    if problems:
        raise InvalidSpec([*problems, *_check(sources, whole=False)[1]])
    return parse(sources)


def parse(sources: Sequence[Source]) -> Target:
    """Return what the texts declare together. Raises InvalidSpec; reads the artefacts that they name."""
    checked, problems = _check(sources)
    if problems:
        raise InvalidSpec(problems)
    deployments: list[DeploymentTarget] = []
    routes: dict[str, Route] = {}
    descriptions: dict[str, str] = {}
    engine = EngineFace()
    for source, file in zip(sources, checked, strict=True):
        own = located(file.engine, source.folder)
        engine = engine.model_copy(update={name: getattr(own, name) for name in file.engine.model_fields_set})
        for name, model in file.models.items():
            routes[name] = lower.route(name, model)
            descriptions |= lower.descriptions(name, model)
            for version in routes[name].versions:
                settled = Inherited(name, model, version)
                try:
                    deployments.append(lower.deployment(settled, source.folder))
                except OSError as error:
                    at = (*settled.at, "artefact")
                    raise InvalidSpec([file.document.problem(at, f"{dotted(at)}: cannot be read: {error.strerror}")]) from None
    given = frozenset(engine.model_fields_set - {"models"})
    return Target(lower.settings(engine), tuple(deployments), RouteTable(0, routes), descriptions, given)


def _read(path: Path) -> Source:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidSpec([Problem(str(path), 1, 1, f"cannot be read: {why}")]) from None
    try:
        return Source(str(path), raw.decode("utf-8-sig"), path.parent)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise InvalidSpec([Problem(str(path), line, column, "not UTF-8 text")]) from None


def _check(sources: Sequence[Source], whole: bool = True) -> tuple[list[CheckedFile], list[Problem]]:
    """Return the files that are YAML, and what is wrong in and between all of them, in the order of the files.

    whole: these are all files, so that one of them has to declare models
    """
    checked: list[CheckedFile] = []
    problems: list[Problem] = []
    first: dict[Place, Problem] = {}
    for source in sources:
        try:
            file = CheckedFile(Document(source.file, source.text))
        except InvalidSpec as invalid:
            problems += invalid.problems
            continue
        checked.append(file)
        _report(file, engine_findings(file.engine))
        _report(file, security_findings(file.engine, source.folder))
        for name, model in file.models.items():
            _report(file, model_findings(name, model, source.folder))
        _declare(file, first)
        problems += sorted(file.problems)
    if whole and not problems and not any("models" in file.document.data for file in checked):
        last = checked[-1].document.file if checked else ""
        problems.append(Problem(last, 1, 1, "declares no models; expected 'models:' with at least one name under it"))
    made = {source.file for source in sources if source.generated}
    return checked, [replace(p, line=1, column=1) if p.file in made else p for p in problems]


def _report(file: CheckedFile, findings: Iterable[Finding]) -> None:
    for finding in findings:
        file.report(finding.path, finding.message, *finding.involved, at_key=finding.at_key)


def _declare(file: CheckedFile, first: dict[Place, Problem]) -> None:
    """Note where each model and each setting of the engine stands; what another file has said already is a problem."""
    data = file.document.data
    models = data.get("models")
    places: list[Place] = [("models", name) for name in models] if isinstance(models, dict) else []
    for place in [*places, *((name,) for name in data if name in EngineFace.model_fields and name != "models")]:
        here = file.document.problem(place, "", at_key=True)
        earlier = first.setdefault(place, here)
        if earlier is not here:
            message = f"{dotted(place)} is declared twice, first at {earlier.file}:{earlier.line}:{earlier.column}"
            file.problems.append(replace(here, message=message))
