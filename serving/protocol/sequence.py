"""The codecs of a version whose model keeps sequences: every request says to which sequence it belongs, and has one row.

They leave the shortcuts of the ordinary codecs out: a header is of one sequence alone, and those codecs need not look for it.
"""

from __future__ import annotations

from serving.errors import InvalidArgument
from serving.inference import Buffer, InferRequest, SequenceRequest
from serving.protocol.check import Accepted
from serving.protocol.generate import GenerateCodec
from serving.protocol.grpc import GrpcCodec, GrpcPlan
from serving.protocol.grpc import Known as KnownGrpc
from serving.protocol.grpc_head import GrpcHead
from serving.protocol.rest import Known, RestCodec, RestPlan
from serving.protocol.rest_request import Declared
from serving.sequence import Step, no_id, one_row


class SequenceRestCodec(RestCodec):
    """See `RestCodec`; requests are `SequenceRequest`s."""

    def decode(self, body: Buffer, header_length: int | None) -> tuple[InferRequest, RestPlan]:
        return self._decode(body, header_length)

    def _from_known(self, known: Known, rest: memoryview, plan: RestPlan) -> tuple[InferRequest, RestPlan]:
        request, plan = super()._from_known(known, rest, plan)
        return _of(request, known.step), plan

    def _from_json(
        self, declared: Declared, accepted: Accepted, head: bytes, rest: memoryview, plan: RestPlan
    ) -> tuple[InferRequest, RestPlan]:
        request, plan = super()._from_json(declared, accepted, head, rest, plan)
        return _of(request, declared.control.step), plan

    def _decode_raw(self, body: Buffer) -> tuple[InferRequest, RestPlan]:
        raise InvalidArgument(no_id(self.model))


class SequenceGrpcCodec(GrpcCodec):
    """See `GrpcCodec`; requests are `SequenceRequest`s."""

    def decode(self, head: GrpcHead) -> tuple[InferRequest, GrpcPlan]:
        return self._decode(head)

    def _request(
        self, accepted: Accepted, sizes: tuple[int, ...], buffers: list[Buffer], plan: GrpcPlan, known: KnownGrpc
    ) -> InferRequest:  # fmt: skip
        return _of(super()._request(accepted, sizes, buffers, plan, known), known.step)


class SequenceGenerateCodec(GenerateCodec):
    """See `GenerateCodec`; requests are `SequenceRequest`s."""

    def _of(self, request: InferRequest, step: Step | None) -> InferRequest:
        return _of(request, step)


def _of(request: InferRequest, step: Step | None) -> SequenceRequest:
    if step is None:
        raise InvalidArgument(no_id(request.model))
    if request.layout.rows != 1:
        raise InvalidArgument(one_row(request.model))
    return SequenceRequest(request, step)
