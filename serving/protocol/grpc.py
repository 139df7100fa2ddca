"""GrpcCodec: ModelInferRequest and ModelInferResponse for one served version.

A head (the message without id and raw contents, see `grpc_head`) that was read before costs a dict look-up and a length check.
"""

from __future__ import annotations

from typing import Final

from serving.errors import SignatureMismatch
from serving.inference import Buffer, InferRequest, InferResponse, Layout
from serving.protocol.check import Accepted, Contract
from serving.protocol.grpc_answer import GrpcAnswer
from serving.protocol.grpc_head import GrpcHead
from serving.protocol.grpc_request import Declared, no_data, read_contents
from serving.protocol.recent import Recent
from serving.protocol.schema import ModelInferRequest, parse
from serving.protocol.special import Special, shared_inputs
from serving.sequence import Step
from serving.tensor import Signature

_NO_RAW: Final = memoryview(b"")


class GrpcPlan:
    """How the answer to one request is to be written; `special`: and what is to be done before and after the model."""

    __slots__ = ("answer", "id", "special")

    def __init__(self, answer: GrpcAnswer, id: str, special: Special | None = None) -> None:
        self.answer = answer
        self.id = id
        self.special = special


class Known:
    """What a head without typed contents means.

    layout   None where the raws are not the payload as they stand: another order, BYTES to be looked at, or shared memory
    regions  per input: bytes that lie in shared memory, -1 for an input that has its own; () where none does
    single   size of the input where it is the only one, else -1
    """

    __slots__ = ("accepted", "answer", "layout", "plan", "priority", "regions", "single", "sizes", "special", "step", "timeout_us")

    def __init__(self, accepted: Accepted, answer: GrpcAnswer, priority: int, timeout_us: int, special: Special | None) -> None:
        self.accepted = accepted
        self.answer = answer
        self.special = special
        self.plan = GrpcPlan(answer, "", special)
        self.priority = priority
        self.timeout_us = timeout_us
        self.regions: tuple[int, ...] = ()
        if special is not None and special.inputs:
            placed = {item.place: item.region.nbytes for item in special.inputs}
            order = accepted.order or range(len(accepted.specs))
            by_position = {position: placed.get(place, -1) for place, position in enumerate(order)}
            self.regions = tuple([by_position[i] for i in range(len(accepted.specs))])
        self.layout: Layout | None = accepted.layout if accepted.order is None and not self.regions else None
        self.sizes = list(accepted.sizes)
        self.single = self.sizes[0] if len(self.sizes) == 1 else -1
        self.step: Step | None = None


class GrpcCodec:
    """gRPC messages to requests, and responses to messages. Not safe to use from several threads."""

    __slots__ = ("_answers", "_contract", "_known", "model", "version")

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        self.model = model
        self.version = version
        self._contract = Contract(model, version, signature)
        self._known: Recent[bytes, Known] = Recent(256, 1 << 20)
        self._answers: Recent[tuple[tuple[str, ...], bool], GrpcAnswer] = Recent(64)

    def decode(self, head: GrpcHead) -> tuple[InferRequest, GrpcPlan]:
        """Return the request and how to answer it; the payload is the raws (or typed contents written as raws).

        Raises InvalidArgument (and below) for everything that the caller can put right, Unsupported for what we do not do.
        """
        found = self._known.young.get(head.head_bytes)
        if found is not None:
            known = found[0]
            layout = known.layout
            raws = head.raws
            if layout is not None and (len(raws[0]) == known.single if len(raws) == 1 else [len(raw) for raw in raws] == known.sizes):
                id = head.id
                plan = GrpcPlan(known.answer, id, known.special) if id else known.plan
                return InferRequest(self.model, self.version, layout, raws, id, 0.0, known.priority, known.timeout_us), plan
        return self._decode(head)

    def encode(self, plan: GrpcPlan, response: InferResponse) -> list[Buffer]:
        """Return the parts of one ModelInferResponse."""
        return plan.answer.write(plan.id, response)

    def _decode(self, head: GrpcHead) -> tuple[InferRequest, GrpcPlan]:
        known = self._known.find(head.head_bytes)
        if known is None:
            declared = Declared(parse(ModelInferRequest, head.head_bytes))
            if declared.has_contents:
                return self._from_contents(head, declared)
            known = self._accept(declared)
            self._known.keep(head.head_bytes, known, len(head.head_bytes) + 512)
        accepted = known.accepted
        raws = head.raws
        if known.regions or len(raws) < len(accepted.specs):
            raws = self._spread(accepted, raws, known.regions)
        sizes = self._check_raws(accepted, raws, known.regions)
        plan = GrpcPlan(known.answer, head.id, known.special)
        return self._request(accepted, sizes, list(raws), plan, known), plan

    def _from_contents(self, head: GrpcHead, declared: Declared) -> tuple[InferRequest, GrpcPlan]:
        if head.raws:
            name = next(n for n, c in zip(declared.names, declared.contents, strict=True) if c is not None)
            raise SignatureMismatch(
                f"contents field must not be specified when using raw_input_contents for '{name}' for model '{self.model}'"
            )
        known = self._accept(declared)
        buffers = read_contents(declared, known.accepted, self._contract)
        plan = GrpcPlan(known.answer, head.id, known.special)
        sizes = [len(b) if not known.regions or known.regions[i] < 0 else known.regions[i] for i, b in enumerate(buffers)]
        return self._request(known.accepted, tuple(sizes), list(buffers), plan, known), plan

    def _accept(self, declared: Declared) -> Known:
        priority, timeout_us, parameters, step = declared.control
        accepted = self._contract.accept(declared.names, declared.labels, declared.shapes, declared.outputs, parameters)
        key = (accepted.outputs, declared.empty_final)
        answer = self._answers.find(key)
        if answer is None:
            outputs = accepted.outputs or tuple([s.name for s in self._contract.signature.outputs])
            answer = GrpcAnswer(self.model, self.version, outputs, declared.empty_final)
            self._answers.keep(key, answer)
        special = None
        if declared.special:
            inputs = shared_inputs(accepted, declared.shared, self._contract)
            special = Special(self._contract, inputs, declared.regions, declared.classes)
        known = Known(accepted, answer, priority, timeout_us, special)
        known.step = step
        return known

    def _request(
        self, accepted: Accepted, sizes: tuple[int, ...], buffers: list[Buffer], plan: GrpcPlan, known: Known
    ) -> InferRequest:  # fmt: skip
        if accepted.order is not None:
            buffers = [buffers[i] for i in accepted.order]
        return InferRequest(
            self.model, self.version, accepted.layout_of(sizes), buffers, plan.id, 0.0, known.priority, known.timeout_us
        )  # fmt: skip

    def _spread(self, accepted: Accepted, raws: list[memoryview], regions: tuple[int, ...]) -> list[memoryview]:
        """Return one raw for each input. Those in shared memory have none of their own, and those without elements need none."""
        own = [i for i in range(len(accepted.specs)) if not regions or regions[i] < 0]
        if len(raws) < len(own):
            filled = [i for i in own if accepted.counts[i]]
            if len(raws) != len(filled):
                lacking = filled if len(raws) < len(filled) else own
                raise no_data(accepted.specs[lacking[len(raws)]].name, self.model)
            own = filled
        spread = [_NO_RAW] * len(accepted.specs)
        for i, raw in zip(own, raws, strict=False):
            spread[i] = raw
        return [*spread, *raws[len(own) :]]

    def _check_raws(self, accepted: Accepted, raws: list[memoryview], regions: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the sizes of the inputs. Raw contents must fit theirs, checked from the last."""
        specs = accepted.specs
        if len(raws) > len(specs):
            raise SignatureMismatch(f"unexpected additional input data for model '{self.model}'")
        for i in range(len(raws) - 1, -1, -1):
            if regions and regions[i] >= 0:
                continue
            if accepted.sizes[i] < 0:
                self._contract.check_bytes_tensor(raws[i], accepted.counts[i], specs[i].name)
            elif len(raws[i]) != accepted.sizes[i]:
                raise self._contract.size_mismatch(specs[i].name, accepted.sizes[i], len(raws[i]))
        if regions:
            return tuple([len(raw) if size < 0 else size for raw, size in zip(raws, regions, strict=True)])
        return tuple(map(len, raws))
