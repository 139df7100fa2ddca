"""From a scenario to what will be sent: asks the server about its models, makes inputs, and tries each request once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from serving.bench import files
from serving.bench.answers import AnswerCheck, Expected
from serving.bench.encode import Header, Order, Work, encode
from serving.bench.grpc_target import GrpcTarget
from serving.bench.inputs import Array, Sample, batches, random_samples, settle
from serving.bench.rest_target import RestTarget
from serving.bench.scenario import Asked, Scenario
from serving.bench.target import ModelInfo, ServerAddress, ServerInfo, Target
from serving.errors import InvalidArgument, ServingError, Unavailable
from serving.tensor import ANY, TensorSpec

BINARY = "binary_tensor_data"
"""The extension of a server that takes binary tensors over REST."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a run sends, and what is worth saying before it begins."""

    scenario: Scenario
    address: ServerAddress
    server: ServerInfo
    models: tuple[ModelInfo, ...]
    works: tuple[Work, ...]
    warnings: list[str] = field(default_factory=list)


def connect(address: ServerAddress, headers: tuple[Header, ...] = ()) -> Target:
    """Return the server at an address; `headers` go with everything that it is asked. Nothing is sent yet."""
    return GrpcTarget(address, headers) if address.protocol == "grpc" else RestTarget(address, headers)


def prepare(scenario: Scenario, target: Target) -> Prepared:
    """Return what a scenario sends to a server. Raises ServingErrors: unreachable, unknown model, open shapes, files that do not fit.

    Every kind of request is tried once, so that one that the server refuses is told in the server's words before the load begins.
    """
    server = target.server()
    models: list[ModelInfo] = []
    works: list[Work] = []
    warnings: list[str] = []
    for asked in scenario.requests:
        info = target.model(asked.model, asked.version)
        if not target.ready(asked.model, asked.version):
            raise Unavailable(f"model '{asked.model}' is not ready")
        models.append(info)
        samples = _samples(asked, info, scenario.load.seed)
        expected = _expected(asked, info, samples)
        order = Order(info, asked.label, asked.encoding or "binary", scenario.headers, asked.outputs or tuple(s.name for s in info.outputs))
        made = [Work(order, s, e, asked.weight / len(samples)) for s, e in zip(samples, expected, strict=True)]
        if not scenario.streaming:
            may_change = asked.encoding is None and target.address.protocol == "rest" and not server.has(BINARY)
            made = _tried(target, made, warnings) if not may_change else _tried_in_turn(target, made, warnings)
        works += made
    return Prepared(scenario, target.address, server, tuple(models), tuple(works), warnings)


def _samples(asked: Asked, info: ModelInfo, seed: int) -> list[Sample]:
    if asked.input is None:
        return random_samples(info, settle(info, asked.shapes, asked.batch_size), asked.samples, seed)
    whole = files.whole_requests(asked.input, info.inputs)
    if whole is not None:
        return whole[: asked.samples]
    rows = files.read_rows(asked.input, info.inputs, info.batched)
    return batches(info, rows, asked.batch_size, asked.samples)


def _expected(asked: Asked, info: ModelInfo, samples: Sequence[Sample]) -> list[tuple[Expected, ...]]:
    """Return what each answer should hold: what the model declares, with values where a file has them."""
    names = asked.outputs or tuple(spec.name for spec in info.outputs)
    specs = [spec for spec in info.outputs if spec.name in names]
    plain = [tuple(_declared(info, spec, sample) for spec in specs) for sample in samples]
    if asked.expect is None:
        return plain
    values = _values(asked.expect, asked, info, specs)
    if len(values) < len(samples):
        raise InvalidArgument(f"{asked.expect} holds the outputs of {len(values)} requests, and there are {len(samples)}")
    return [
        tuple(replace(e, shape=found[e.name].shape, values=found[e.name]) if e.name in found else e for e in outputs)
        for outputs, found in zip(plain, values, strict=False)
    ]


def _values(path: Path, asked: Asked, info: ModelInfo, specs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """Return the outputs that a file holds for each request, by name."""
    try:
        made = files.whole_requests(path, info.outputs, "outputs")
        if made is None:
            rows = files.read_rows(path, specs, info.batched)
            held = replace(info, inputs=tuple(s for s in info.outputs if s.name in rows[0]) if rows else info.outputs)
            made = batches(held, rows, asked.batch_size, asked.samples)
    except InvalidArgument as error:
        raise InvalidArgument(f"expected outputs: {error.message}") from None
    return [{tensor.name: tensor.array for tensor in sample} for sample in made]


def _declared(info: ModelInfo, spec: TensorSpec, sample: Sample) -> Expected:
    """Return what the metadata promises of an output. Only a server that tells the batch dimension promises as many rows as it got."""
    shape = spec.shape
    if info.max_batch_size and shape[:1] == (ANY,):
        shape = (sample[0].array.shape[0], *shape[1:])
    return Expected(spec.name, spec.dtype, shape)


def _tried_in_turn(target: Target, works: list[Work], warnings: list[str]) -> list[Work]:
    """Send binary tensors to a server that does not say that it takes them, and JSON where it refuses them."""
    try:
        return _tried(target, works, warnings)
    except Unavailable:
        raise
    except ServingError as refused:
        try:
            made = _tried(target, [replace(work, order=replace(work.order, encoding="json")) for work in works], warnings)
        except ServingError:
            raise refused from None
    warnings.append(
        f"the server does not list the extension {BINARY} and refuses binary tensors: they travel as JSON (--encoding binary insists)"
    )
    return made


def _tried(target: Target, works: list[Work], warnings: list[str]) -> list[Work]:
    """Send the first of some requests that differ in their numbers alone. What it shows of the answers holds for all."""
    work = works[0]
    model = work.order.info.name
    path, headers, body = encode(target.address, work.order, work.sample)
    answer = target.infer(path, headers, body)
    if target.address.protocol == "grpc":
        answer = bytes(5) + answer
    wrong = AnswerCheck(target.address.protocol, work.expected)(answer)
    if wrong is None:
        return works
    values = any(e.values is not None for e in work.expected)
    if values or AnswerCheck(target.address.protocol, ())(answer):
        warnings.append(f"the first answer of model '{model}' is not as expected: {wrong}")
        return works
    warnings.append(f"model '{model}' does not answer as its metadata says ({wrong}); answers are not compared with it")
    return [replace(w, expected=()) for w in works]
