"""What the face alone cannot say: values that contradict each other, names that must exist, files that must be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

from serving.errors import InvalidArgument
from serving.names import version_name
from serving.spec.artefact import DEFAULT_ENTRY, ENDINGS, TELLS_SIGNATURE, PythonFile, ending, located, missing, runtimes_of
from serving.spec.explain import nearest
from serving.spec.face import EngineFace, InputFace, ModelFace, OutputFace
from serving.spec.inherit import Inherited
from serving.spec.problem import Finding, Path, dotted, quoted
from serving.spec.traffic import traffic_findings
from serving.spec.version_policy import policy_findings, served


def engine_findings(engine: EngineFace) -> Iterator[Finding]:
    limits = engine.limits
    body = limits.max_body_mb
    at = ("limits", "max_body_mb")
    if "max_json_mb" in limits.model_fields_set and limits.max_json_mb > body:
        yield Finding(
            ("limits", "max_json_mb"), f"limits.max_json_mb is {limits.max_json_mb}, more than max_body_mb, which is {body}", (at,)
        )
    if "max_inflight_mb" in limits.model_fields_set and limits.max_inflight_mb < body:
        path = ("limits", "max_inflight_mb")
        yield Finding(path, f"limits.max_inflight_mb is {limits.max_inflight_mb}, less than max_body_mb, which is {body}", (at,))
    if limits.client_burst and not limits.client_requests_per_s:
        yield Finding(("limits", "client_burst"), "limits.client_burst is of client_requests_per_s, which is not given")
    if limits.client_header.lower() == "x-serving-client":
        yield Finding(
            ("limits", "client_header"), "limits.client_header: x-serving-client is the edge's own; leave it out to tell addresses apart"
        )
    yield from _webhooks(engine)


def _webhooks(engine: EngineFace) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for i, hook in enumerate(engine.webhooks):
        at: Path = ("webhooks", i)
        if bool(hook.secret_env) == bool(hook.secret_file):
            said = "both are given" if hook.secret_env else "neither is given; nothing is sent unsigned"
            yield Finding(at, f"{dotted(at)}: expected secret_env or secret_file, {said}")
        if hook.url in first:
            yield Finding((*at, "url"), f"{dotted((*at, 'url'))} is that of webhooks[{first[hook.url]}] already")
        first.setdefault(hook.url, i)


def model_findings(name: str, model: ModelFace, folder: FilePath) -> Iterator[Finding]:
    yield from _traffic(name, model)
    for version in model.versions:
        try:
            version_name(version)
        except InvalidArgument:
            path: Path = ("models", name, "versions", version)
            yield Finding(path, f"{dotted(path[:-1])}: a version is a whole number such as 1, got {quoted(version)}", at_key=True)
        settled = Inherited(name, model, version)
        yield from _batching(settled)
        yield from _resources(settled)
        yield from _tensors(settled)
        yield from _artefact(settled, folder)
        yield from _sequence(settled, folder)


def _traffic(name: str, model: ModelFace) -> Iterator[Finding]:
    versions = list(model.versions)
    if model.version_policy is not None:
        yield from policy_findings(name, model)
        if all(map(_is_number, versions)):
            versions = served(model) or versions
    at: Path = ("models", name, "traffic")
    declared: Path = ("models", name, "versions")
    if model.traffic is None:
        if len(versions) > 1 and model.version_policy is None:
            said = f"models.{name} has {len(versions)} versions ({', '.join(versions)})"
            message = f"{said}: say which one answers, traffic: {{stable: {versions[-1]}}}"
            yield Finding(declared, message, (at,), at_key=True)
    else:
        yield from traffic_findings(at, model.traffic, versions)


def _is_number(version: str) -> bool:
    try:
        version_name(version)
    except InvalidArgument:
        return False
    return True


def _batching(v: Inherited) -> Iterator[Finding]:
    batching = v.batching
    size = v.places("batching", "max_batch_size")
    if batching.max_delay_ms and batching.max_batch_size < 2:
        path = v.place("batching", "max_delay_ms")
        yield Finding(path, f"{dotted(path)}: nothing to wait for, max_batch_size is {batching.max_batch_size}", size)
    if batching.timeout_ms and batching.timeout_ms <= batching.max_delay_ms:
        path = v.place("batching", "timeout_ms")
        said = f"{dotted(path)} is {batching.timeout_ms:g}, not more than max_delay_ms, which is {batching.max_delay_ms:g}"
        message = f"{said}: requests would leave the queue before their batch starts"
        yield Finding(path, message, v.places("batching", "max_delay_ms"))
    for i, rows in enumerate(v.warm_up.batch_sizes):
        if rows > max(batching.max_batch_size, 1):
            path = (*v.place("warm_up", "batch_sizes"), i)
            yield Finding(path, f"{dotted(path)} is {rows}, more than max_batch_size, which is {batching.max_batch_size}", size)


def _resources(v: Inherited) -> Iterator[Finding]:
    resources = v.resources
    if resources.gpus > 1 and resources.gpus != int(resources.gpus):
        path = v.place("resources", "gpus")
        yield Finding(path, f"{dotted(path)}: expected a share of one GPU, such as 0.5, or whole ones, got {resources.gpus:g}")
    if resources.accelerator_type and not resources.gpus:
        path = v.place("resources", "accelerator_type")
        yield Finding(
            path, f"{dotted(path)}: {quoted(resources.accelerator_type)} without a GPU; give gpus as well", v.places("resources", "gpus")
        )


def _tensors(v: Inherited) -> Iterator[Finding]:
    signature = v.signature
    if signature is None:
        return
    at = v.place("signature")
    sides: dict[str, Sequence[InputFace | OutputFace]] = {"inputs": signature.inputs, "outputs": signature.outputs}
    for side, tensors in sides.items():
        first: dict[str, int] = {}
        for i, tensor in enumerate(tensors):
            path = (*at, side, i)
            if tensor.name in first:
                message = f"{dotted((*path, 'name'))}: {quoted(tensor.name)} is the name of {side}[{first[tensor.name]}] already"
                yield Finding((*path, "name"), message)
            first.setdefault(tensor.name, i)
            yield from _shape(path, tensor)
    if all(tensor.optional for tensor in signature.inputs):
        yield Finding((*at, "inputs"), f"{dotted((*at, 'inputs'))}: all are optional, one has to be there")


def _shape(at: Path, tensor: InputFace | OutputFace) -> Iterator[Finding]:
    for i, size in enumerate(tensor.shape):
        if size == 0:
            path = (*at, "shape", i)
            yield Finding(path, f"{dotted(path)}: expected at least 1, or -1 for any size, got 0")


def _artefact(v: Inherited, folder: FilePath) -> Iterator[Finding]:
    version, at = v.version, v.at
    path = located(folder, version.artefact)
    here: Path = (*at, "artefact")
    absent = missing(path)
    if absent:
        yield Finding(here, f"{dotted(here)}: {_quoted_path(path)} {absent}")
    runtimes = runtimes_of(path)
    if version.runtime is None and len(runtimes) != 1:
        yield Finding((*at, "runtime") if runtimes else here, _no_runtime(at, path, runtimes), ((*at, "runtime"),))
    elif version.runtime is not None and version.runtime not in runtimes:
        reads = ", ".join(ENDINGS[version.runtime])
        message = f"{dotted((*at, 'runtime'))}: {version.runtime} reads {reads}, and the artefact is {quoted(path.name)}"
        yield Finding((*at, "runtime"), message, (here,))
    if ending(path) == ".py":
        yield from _code(v, path, absent is not None)
    elif runtimes:
        for name in ("entry", "weights", "options"):
            if getattr(version, name):
                message = f"{dotted((*at, name))}: only for an artefact that is a .py file, this one is {quoted(path.name)}"
                yield Finding((*at, name), message, (here,))
    if runtimes and v.signature is None and ending(path) not in TELLS_SIGNATURE:
        message = f"{dotted(at)}: 'signature' is missing, a {ending(path)} file does not tell it"
        yield Finding((*at, "signature"), message, (here, *v.places("signature")))
    if v.decoupled and version.runtime != "python":
        place = v.place("decoupled")
        yield Finding(place, f"{dotted(place)}: only for runtime python, whose predict may give several answers", ((*at, "runtime"),))
    if version.weights:
        yield from _weights(v, located(folder, version.weights))


def _sequence(v: Inherited, folder: FilePath) -> Iterator[Finding]:
    if v.sequence is None:
        return
    runtimes = [v.version.runtime] if v.version.runtime else runtimes_of(located(folder, v.version.artefact))
    if runtimes and "python" not in runtimes:
        path = v.place("sequence")
        message = f"{dotted(path)}: only for runtime python, whose predict(inputs, sequences) keeps the state; this one is {runtimes[0]}"
        yield Finding(path, message, ((*v.at, "runtime"), (*v.at, "artefact")))


def _no_runtime(at: Path, path: FilePath, runtimes: list[str]) -> str:
    if runtimes:
        return f"{dotted(at)}: 'runtime' is missing, a {ending(path)} file can be {' or '.join(runtimes)}"
    known = ", ".join(dict.fromkeys(e for endings in ENDINGS.values() for e in endings))
    return f"{dotted((*at, 'artefact'))}: expected a file that ends with {known}, got {quoted(path.name)}"


def _code(v: Inherited, path: FilePath, absent: bool) -> Iterator[Finding]:
    """Check the entry of a Python file against the names in it, without running it."""
    here: Path = (*v.at, "entry")
    entry = v.version.entry
    code = None if absent else PythonFile(path)
    classes = code.classes if code else []
    if code and code.error:
        yield Finding((*v.at, "artefact"), f"{dotted((*v.at, 'artefact'))}: {_quoted_path(path)} is not Python: {code.error}")
    elif code and not entry and code.names is not None and DEFAULT_ENTRY not in code.names:
        among = f", expected one of the classes in {path.name}: {', '.join(classes)}" if classes else ""
        yield Finding(here, f"{dotted(v.at)}: 'entry' is missing{among}")
    elif entry and code and code.names is not None and entry not in code.names:
        near = nearest(entry, classes)
        hint = f"did you mean '{near}'?" if near else f"it has {', '.join(classes) or 'none'}"
        yield Finding(here, f"{dotted(here)}: there is no class {quoted(entry)} in {path.name}; {hint}")


def _weights(v: Inherited, path: FilePath) -> Iterator[Finding]:
    here: Path = (*v.at, "weights")
    if ending(path) != ".safetensors":
        yield Finding(here, f"{dotted(here)}: expected a .safetensors file, got {quoted(path.name)}")
    elif absent := missing(path):
        yield Finding(here, f"{dotted(here)}: {_quoted_path(path)} {absent}")
    if v.version.runtime == "python":
        message = f"{dotted(here)}: runtime python has none; a class loads its own files, give their path in options"
        yield Finding(here, message, ((*v.at, "runtime"),))


def _quoted_path(path: FilePath) -> str:
    """Return a path in quotes; whole, for people who copy it, but never with control characters."""
    return f"'{path}'" if str(path).isprintable() and len(str(path)) < 1000 else quoted(str(path))
