"""RestCodec: Open Inference REST, JSON and binary tensors, for one served version.

A request whose tensors are all binary is known by the bytes of its JSON header: the second of its kind costs a slice,
a dict look-up and a length check. Where headers differ in their `id` alone, they share what was read.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from serving.errors import DecodeError, InvalidArgument, SignatureMismatch
from serving.inference import Buffer, InferRequest, InferResponse, Layout
from serving.protocol import json_tensor
from serving.protocol.check import Accepted, Contract
from serving.protocol.json_numbers import LARGE_BYTES, LargeReader
from serving.protocol.json_slices import Outline
from serving.protocol.json_text import parse
from serving.protocol.recent import Recent
from serving.protocol.rest_answer import RestAnswer
from serving.protocol.rest_request import Declared
from serving.protocol.special import Special, shared_inputs
from serving.sequence import Step
from serving.tensor import ANY, DType, Signature, element_count

MAX_JSON_BYTES: Final = 64 << 20
_ID_OPENINGS: Final = (b'{"id":"', b'{"id": "')


class RestPlan:
    """How the answer to one request is to be written; `special`: and what is to be done before and after the model."""

    __slots__ = ("answer", "id", "special")

    def __init__(self, answer: RestAnswer, id: str, special: Special | None = None) -> None:
        self.answer = answer
        self.id = id
        self.special = special


class Known:
    """What a JSON header means, where all tensors follow as bytes. `simple`: the bytes that follow are the payload as it stands."""

    __slots__ = ("accepted", "id", "layout", "payload_bytes", "plan", "priority", "simple", "sizes", "step", "timeout_us")

    def __init__(self, accepted: Accepted, layout: Layout, sizes: tuple[int, ...], plan: RestPlan, priority: int, timeout_us: int) -> None:
        self.accepted = accepted
        self.layout = layout
        self.sizes = sizes
        self.plan = plan
        self.id = plan.id
        self.priority = priority
        self.timeout_us = timeout_us
        self.payload_bytes = sum(sizes)
        self.simple = accepted.order is None and -1 not in accepted.sizes and -1 not in sizes
        self.step: Step | None = None


class RestCodec:
    """Bytes of infer bodies to requests, and responses to bytes. Not safe to use from several threads."""

    __slots__ = ("_answers", "_contract", "_known", "_large", "_max_json_bytes", "model", "version")

    def __init__(self, model: str, version: str, signature: Signature, *, max_json_bytes: int = MAX_JSON_BYTES) -> None:
        self.model = model
        self.version = version
        self._contract = Contract(model, version, signature)
        self._max_json_bytes = max_json_bytes
        self._known: Recent[bytes, Known] = Recent(256, 1 << 20)
        self._answers: Recent[tuple[object, ...], RestAnswer] = Recent(64)
        self._large: LargeReader | None = None

    def decode(self, body: Buffer, header_length: int | None) -> tuple[InferRequest, RestPlan]:
        """Return the request and how to answer it. The payload is views of `body` where tensors are binary.

        `header_length`: value of Inference-Header-Content-Length, None without one, 0 for a raw request.
        Raises InvalidArgument (and below) for everything that the caller can put right, Unsupported for what we do not do.
        """
        if header_length is not None and header_length > 0:
            found = self._known.young.get(bytes(body[:header_length]))
            if found is not None:
                known = found[0]
                if known.simple and len(body) - header_length == known.payload_bytes:
                    return (
                        InferRequest(
                            self.model, self.version, known.layout, (memoryview(body)[header_length:],),
                            known.id, 0.0, known.priority, known.timeout_us,
                        ),
                        known.plan,
                    )  # fmt: skip
        return self._decode(body, header_length)

    def decode_outline(self, outline: Outline) -> tuple[InferRequest, RestPlan]:
        """Return the same as `decode` for a JSON body that has been read in slices."""
        declared = Declared(outline.document)
        return self._read(declared, outline.text, memoryview(b""), declared.id, None)

    def encode(self, plan: RestPlan, response: InferResponse) -> tuple[list[Buffer], int | None]:
        """Return the parts of the body and the value of Inference-Header-Content-Length (None: plain JSON, no header)."""
        return plan.answer.write(plan.id, response)

    def encode_slices(self, plan: RestPlan, response: InferResponse) -> Generator[None, None, tuple[list[Buffer], int | None]]:
        """Return what `encode` does; yields where others may have their turn."""
        return plan.answer.write_slices(plan.id, response)

    def _decode(self, body: Buffer, header_length: int | None) -> tuple[InferRequest, RestPlan]:
        size = len(body)
        if header_length is None:
            if size == 0:
                raise DecodeError("request JSON is empty")
            self._check_json_bytes(size)
            if size < LARGE_BYTES:
                declared = Declared(parse(body))
            else:
                self._large = self._large or LargeReader()
                declared = Declared(self._large.read(body))
            return self._read(declared, bytes(body), memoryview(b""), declared.id, None)
        if header_length == 0:
            return self._decode_raw(body)
        if not 0 < header_length <= size:
            raise DecodeError(f"inference header size should be in range (0, {size}), got: {header_length}")
        self._check_json_bytes(header_length)
        head = bytes(body[:header_length])
        rest = memoryview(body)[header_length:]
        id, anonymous = _split_id(head)
        known = self._known.find(anonymous)
        if known is not None:
            return self._from_known(known, rest, RestPlan(known.plan.answer, id, known.plan.special) if id and not known.id else known.plan)
        declared = Declared(parse(anonymous))
        # An id of its own in what is left after the cut: the member comes twice, and the last one counts.
        return self._read(declared, anonymous, rest, declared.id or id, anonymous)

    def _check_json_bytes(self, size: int) -> None:
        if size > self._max_json_bytes:
            raise InvalidArgument(
                f"request JSON size of {size} bytes exceeds the maximum allowed input size of {self._max_json_bytes} bytes"
            )

    def _read(self, declared: Declared, head: bytes, rest: memoryview, id: str, key: bytes | None) -> tuple[InferRequest, RestPlan]:
        """Check what the header declares; keep it under `key` where all tensors are binary."""
        try:
            accepted = self._contract.accept(
                declared.names, declared.labels, declared.shapes, declared.outputs, declared.control.parameters
            )
        except SignatureMismatch:
            _check_data(declared, head)
            raise
        special = self._special(declared, accepted) if declared.special else None
        plan = RestPlan(self._answer(declared), id, special)
        if declared.data.count(None) < len(declared.data):
            return self._from_json(declared, accepted, head, rest, plan)
        sizes = tuple(declared.sizes)
        self._check_sizes(accepted, sizes)
        priority, timeout_us = declared.control[:2]
        # Kept under the header as it was read: its id is the declared one, not the one that was cut out.
        kept = plan if id == declared.id else RestPlan(plan.answer, declared.id, special)
        known = Known(accepted, accepted.layout_of(_with_shared(declared, sizes)), sizes, kept, priority, timeout_us)
        known.step = declared.control.step
        if key is not None:
            self._known.keep(key, known, len(key) + 512)
        return self._from_known(known, rest, plan)

    def _from_known(self, known: Known, rest: memoryview, plan: RestPlan) -> tuple[InferRequest, RestPlan]:
        accepted = known.accepted
        payload: tuple[Buffer, ...] = (rest,)
        if not known.simple or len(rest) != known.payload_bytes:
            payload = self._place(accepted, self._cut(accepted, known.sizes, rest))
        request = InferRequest(self.model, self.version, known.layout, payload, plan.id, 0.0, known.priority, known.timeout_us)
        return request, plan

    def _from_json(
        self, declared: Declared, accepted: Accepted, head: bytes, rest: memoryview, plan: RestPlan
    ) -> tuple[InferRequest, RestPlan]:
        sizes = list(declared.sizes)
        buffers: list[Buffer]
        if rest or max(sizes) >= 0:
            self._check_sizes(accepted, tuple(sizes))
            buffers = self._cut(accepted, tuple(sizes), rest)
        else:
            buffers = [b""] * len(sizes)
        for i in range(len(sizes) - 1, -1, -1):
            data = declared.data[i]
            if data is not None:
                spec = accepted.specs[i]
                buffers[i] = json_tensor.decode(data, spec.dtype, accepted.counts[i], spec.name, head)
                sizes[i] = len(buffers[i])
        layout = accepted.layout or accepted.layout_of(_with_shared(declared, tuple(sizes)))
        priority, timeout_us = declared.control[:2]
        payload = self._place(accepted, buffers)
        return InferRequest(self.model, self.version, layout, payload, plan.id, 0.0, priority, timeout_us), plan

    def _special(self, declared: Declared, accepted: Accepted) -> Special:
        inputs = shared_inputs(accepted, declared.shared, self._contract)
        return Special(self._contract, inputs, declared.regions, declared.classes)

    def _check_sizes(self, accepted: Accepted, sizes: tuple[int, ...]) -> None:
        """Raise for a binary input that declares another size than its shape has, the last one first."""
        for i in range(len(sizes) - 1, -1, -1):
            if sizes[i] >= 0 and accepted.sizes[i] >= 0 and sizes[i] != accepted.sizes[i]:
                raise self._contract.size_mismatch(accepted.specs[i].name, accepted.sizes[i], sizes[i])

    def _cut(self, accepted: Accepted, sizes: tuple[int, ...], rest: memoryview) -> list[Buffer]:
        """Return the binary inputs' views (empty ones for JSON inputs). They must fill `rest` to the byte."""
        views: list[Buffer] = []
        at = 0
        for spec, size in zip(accepted.specs, sizes, strict=True):
            stop = at + max(size, 0)
            if stop > len(rest):
                raise SignatureMismatch(
                    f"unexpected size for input '{spec.name}', expecting {stop - len(rest)} additional bytes for model '{self.model}'"
                )
            views.append(rest[at:stop])
            at = stop
        if at != len(rest):
            raise SignatureMismatch(f"unexpected additional input data for model '{self.model}'")
        for i in range(len(sizes) - 1, -1, -1):
            spec = accepted.specs[i]
            if spec.dtype is DType.BYTES and sizes[i] >= 0:
                self._contract.check_bytes_tensor(views[i], accepted.counts[i], spec.name)
        return views

    @staticmethod
    def _place(accepted: Accepted, buffers: list[Buffer]) -> tuple[Buffer, ...]:
        return tuple(buffers) if accepted.order is None else tuple([buffers[i] for i in accepted.order])

    def _answer(self, declared: Declared) -> RestAnswer:
        key = (declared.outputs, declared.binary, declared.all_binary, *declared.classes)
        answer = self._answers.find(key)
        if answer is None:
            wanted = dict(zip(declared.outputs, declared.binary, strict=True))
            answer = RestAnswer.make(self.model, self.version, self._contract.signature, wanted, declared.all_binary, declared.classes)
            self._answers.keep(key, answer)
        return answer

    def _decode_raw(self, body: Buffer) -> tuple[InferRequest, RestPlan]:
        """The whole body is the one input; its shape follows from the signature."""
        signature = self._contract.signature
        size = len(body)
        if len(signature.inputs) != 1:
            raise InvalidArgument(
                f"Raw request must only have 1 input (found 1) to be deduced but got {len(signature.inputs)} inputs in "
                f"'{self.model}' model configuration"
            )
        if size > self._max_json_bytes:
            raise InvalidArgument(
                f"Raw input has a byte_size ({size}) exceeding the maximum allowed input size of {self._max_json_bytes} bytes"
            )
        spec = signature.inputs[0]
        buffers: tuple[Buffer, ...] = (memoryview(body),)
        if spec.dtype is DType.BYTES:
            if spec.shape != (1,):
                raise InvalidArgument(f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
            buffers = (size.to_bytes(4, "little"), memoryview(body))
            size += 4
            shape: tuple[int, ...] = (1,)
        else:
            shape = _deduce(spec.name, spec.shape, size, spec.dtype.itemsize)
        if signature.batched:
            shape = (1, *shape)
        accepted = self._contract.accept((spec.name,), (spec.dtype.label,), (shape,))
        self._check_sizes(accepted, (size,))
        answer = self._answers.find(("raw",))
        if answer is None:
            answer = RestAnswer.make(self.model, self.version, signature, {}, True)
            self._answers.keep(("raw",), answer)
        return InferRequest(self.model, self.version, accepted.layout_of((size,)), buffers), RestPlan(answer, "")


def parse_header_length(text: str) -> int:
    """Return the number in an Inference-Header-Content-Length header. Raises DecodeError; the range is checked by `decode`."""
    text = text.strip()
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise DecodeError(f"Unable to parse Inference-Header-Content-Length, got: {text}")
    return int(text)


def _check_data(declared: Declared, head: bytes) -> None:
    """Raise for JSON data that is not what the input itself declares: clients are told of that before what the model misses."""
    for name, label, shape, data in zip(declared.names, declared.labels, declared.shapes, declared.data, strict=True):
        if data is not None:
            json_tensor.decode(data, DType.of(label), element_count(shape), name, head)


def _with_shared(declared: Declared, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the inputs' sizes with those that lie in shared memory."""
    return tuple([size if region is None else region.nbytes for size, region in zip(sizes, declared.shared, strict=True)])


def _deduce(name: str, shape: tuple[int, ...], nbytes: int, itemsize: int) -> tuple[int, ...]:
    """Return the shape with its one variable dimension filled in so that it takes nbytes."""
    if shape.count(ANY) > 1:
        raise InvalidArgument(
            f"The shape of the raw input '{name}' can not be deduced because there are more than one variable-sized dimension"
        )
    fixed = itemsize
    for dim in shape:
        if dim != ANY:
            fixed *= dim
    variable = nbytes // fixed if fixed else 0
    return tuple([variable if dim == ANY else dim for dim in shape])


def _split_id(head: bytes) -> tuple[str, bytes]:
    """Return the id and the header with an empty one, where the header begins with a plain id; else "" and the header."""
    for opening in _ID_OPENINGS:
        if head.startswith(opening):
            start = len(opening)
            stop = head.find(b'"', start)
            raw = head[start:stop]
            if stop > start and raw.isascii() and b"\\" not in raw:
                id = raw.decode()
                if id.isprintable():
                    return id, head[:start] + head[stop:]
    return "", head
