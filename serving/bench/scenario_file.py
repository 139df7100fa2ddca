"""Reads scenarios from YAML: every problem with file, line, what was expected and the nearest name, as the engine's own files have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from serving.bench.arrivals import Arrivals, Bursty, Constant, Poisson, Ramp, Recorded, Spacing, Step
from serving.bench.load import PLAIN_SETTINGS, Closed, Load, Open
from serving.bench.scenario import Asked, Scenario
from serving.bench.scenario_face import DEFAULT_CONCURRENCY, LoadFace, RequestFace, ScenarioFace
from serving.errors import InvalidArgument
from serving.spec.document import Document
from serving.spec.explain import explain, nearest
from serving.spec.json_schema import DIALECT
from serving.spec.problem import InvalidSpec, Problem, dotted, quoted
from serving.spec.problem import Path as Place

SHAPES = ("concurrency", "rate", "ramp", "steps", "recorded")


def read_scenario(path: Path) -> Scenario:
    """Return the scenario in a file. Raises InvalidSpec with every problem."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InvalidSpec([Problem(str(path), 1, 1, f"cannot be read: {why}")]) from None
    return parse_scenario(str(path), text, path.parent)


def parse_scenario(file: str, text: str, folder: Path) -> Scenario:
    """Return the scenario that YAML text declares; paths in it start from `folder`. Raises InvalidSpec with every problem."""
    document = Document(file, text)
    problems = list(document.problems)
    try:
        face = ScenarioFace.model_validate(document.data)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            unknown = error["type"] == "extra_forbidden"
            place: Place = tuple(error["loc"])
            if place not in document.broken:
                message = _unknown_key(place) if unknown else explain((), error).message.removeprefix(": ")
                problems.append(document.problem(place, message, at_key=unknown))
        raise InvalidSpec(sorted(problems)) from None
    problems += [document.problem(place, f"{dotted(place)}: {message}") for place, message in _findings(face, folder)]
    if problems:
        raise InvalidSpec(sorted(problems))
    try:
        return _lowered(face, folder)
    except InvalidArgument as error:
        raise InvalidSpec([document.problem(("load",), f"load: {error.message}")]) from None


def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario, for editors. Draft 2020-12."""
    schema = ScenarioFace.model_json_schema()
    _tidy(schema)
    schema = json.loads(json.dumps(schema).replace('Face"', '"'))  # the names of definitions, and what refers to them
    return {"$schema": DIALECT, **schema, "title": "A load test"}


def _tidy(value: Any) -> None:
    """Take out what only pydantic says: titles made of names, and `null`, for which one leaves the key out."""
    if isinstance(value, list):
        for item in value:
            _tidy(item)
    if not isinstance(value, dict):
        return
    if isinstance(value.get("title"), str):
        del value["title"]
    if {"type": "null"} in value.get("anyOf", ()):
        choices = [choice for choice in value.pop("anyOf") if choice != {"type": "null"}]
        value.update(choices[0])
        value.pop("default", None)
    for inner in value.values():
        _tidy(inner)


def _unknown_key(place: Place) -> str:
    name, parent = str(place[-1]), place[:-1]
    known = _face_at(parent).model_fields
    said = f"unknown key {quoted(name)}{f' in {dotted(parent)}' if parent else ''}"
    for section, face in (("load", LoadFace), ("requests", RequestFace)):
        if name in face.model_fields and name not in known and not parent:
            return f"{said}; it belongs under '{section}'"
    if name in ScenarioFace.model_fields and parent:
        return f"{said}; it belongs at the top of the file"
    near = nearest(name, known)
    return f"{said}; did you mean '{near}'?" if near else f"{said}; expected one of {', '.join(known)}"


def _face_at(place: Place) -> type[BaseModel]:
    """Return the face that describes the mapping at `place`."""
    face: type[BaseModel] = ScenarioFace
    for step in place:
        if isinstance(step, str):
            face = next(_faces(face.model_fields[step].annotation))
    return face


def _faces(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the faces in `X`, `X | None` and `list[X] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _faces(argument)


def _findings(face: ScenarioFace, folder: Path) -> Iterator[tuple[Place, str]]:
    """Yield what is wrong between values, and files that are not there."""
    given = [name for name in SHAPES if getattr(face.load, name) is not None]
    if len(given) > 1:
        yield ("load", given[1]), f"{given[0]} is given as well; a load has one of {', '.join(SHAPES)}"
    if face.load.arrivals == "bursty" and given != ["rate"]:
        yield ("load", "arrivals"), "bursty arrivals need a rate"
    if not face.load.duration_s and not face.load.max_requests:
        yield ("load", "duration_s"), "without an end; give max_requests, or more than 0"
    files: list[tuple[Place, str | None]] = [(("load", "recorded"), face.load.recorded)]
    for i, request in enumerate(face.requests):
        files += [(("requests", i, "input"), request.input), (("requests", i, "expect"), request.expect)]
        if request.expect and not request.input:
            yield ("requests", i, "expect"), "outputs belong to the rows of a file; give input as well"
    for place, name in files:
        if name is not None and not (folder / name).is_file():
            yield place, f"there is no file '{folder / name}'"
    names: dict[str, int] = {}
    for i, request in enumerate(face.requests):
        label = _asked(request, folder).label
        if label in names:
            yield ("requests", i), f"'{label}' is the name of requests[{names[label]}] already; give each a name of its own"
        names.setdefault(label, i)


def _lowered(face: ScenarioFace, folder: Path) -> Scenario:
    return Scenario(
        face.url,
        tuple(_asked(request, folder) for request in face.requests),
        _load(face.load, folder),
        name=face.name,
        protocol=face.protocol,
        driver=face.driver,
        streaming=face.streaming,
        slo_ms=face.slo_ms,
        repetitions=face.repetitions,
    )


def _asked(face: RequestFace, folder: Path) -> Asked:
    values = face.model_dump(exclude={"input", "expect", "shapes", "outputs"})
    return Asked(
        **values,
        shapes={name: tuple(shape) for name, shape in face.shapes.items()},
        input=folder / face.input if face.input else None,
        expect=folder / face.expect if face.expect else None,
        outputs=tuple(face.outputs),
    )


def _load(face: LoadFace, folder: Path) -> Load:
    arrivals = arrivals_of(face, folder)
    shape = Closed(face.concurrency or DEFAULT_CONCURRENCY) if arrivals is None else Open(arrivals, face.max_in_flight)
    return Load(shape, **{name: getattr(face, name) for name in PLAIN_SETTINGS})


def arrivals_of(face: LoadFace, folder: Path) -> Arrivals | None:
    """Return when the requests of an open loop start; None for a closed one. Raises InvalidArgument."""
    spacing: Spacing = "even" if face.arrivals == "constant" else "poisson"
    if face.rate is not None:
        match face.arrivals:
            case "constant":
                return Constant(face.rate)
            case "poisson":
                return Poisson(face.rate)
            case "bursty":
                return Bursty(face.rate, face.burstiness)
    if face.ramp is not None:
        return Ramp(face.ramp.first, face.ramp.last, face.ramp.over_s, spacing)
    if face.steps is not None:
        return Step(tuple((step.rate, step.seconds) for step in face.steps), face.repeat_steps, spacing)
    if face.recorded is not None:
        return Recorded(recorded_times(folder / face.recorded), face.speed)
    return None


def recorded_times(path: Path) -> tuple[float, ...]:
    """Return the seconds that stand in a file, one a line, from the first one on. Raises InvalidArgument."""
    try:
        times = [float(line.split()[0].rstrip(",")) for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from None
    return tuple(time - times[0] for time in times)
