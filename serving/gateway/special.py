"""SpecialCall: a prediction with inputs or outputs in a client's shared memory, or answered with classes. See `protocol/special.py`.

Stands between the owner of a call (a connection, a slot of a stream) and the service: reads before, writes after. What would hold up
the loop is done in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from serving.errors import Code, ServingError, TooLarge, Unsupported
from serving.gateway.body import body_place
from serving.gateway.call import Call, Owner, Served
from serving.gateway.client_limits import Client
from serving.gateway.ports import Cancellable
from serving.gateway.regions import DISABLED
from serving.gateway.service import Service
from serving.inference import Buffer, InferRequest, InferResponse
from serving.protocol.grpc import GrpcPlan
from serving.protocol.rest import RestPlan
from serving.protocol.special import Special

THREAD_BYTES = 256 * 1024
"""Tensors from this size on are read, written and ranked in a thread."""
THREAD_CLASSES = 256


def submit(
    service: Service, served: Served, request: InferRequest, owner: Owner, plan: RestPlan | GrpcPlan, protocol: str, client: Client | None
) -> Cancellable:
    """Submit a request, by way of a `SpecialCall` where it wants one. Raises ServingError as `Calls.submit` does."""
    if plan.special is None:
        return service.calls.submit(served, request, owner, plan, protocol, client)
    return SpecialCall(service, served, request, owner, plan, protocol, client).start()


class SpecialCall:
    """Owner of the call, and what the exchange cancels."""

    __slots__ = ("_call", "_client", "_over", "_owner", "_plan", "_protocol", "_request", "_served", "_service", "_special")

    def __init__(
        self,
        service: Service,
        served: Served,
        request: InferRequest,
        owner: Owner,
        plan: RestPlan | GrpcPlan,
        protocol: str,
        client: Client | None,
    ) -> None:
        self._service = service
        self._served = served
        self._request = request
        self._owner = owner
        self._plan = plan
        self._protocol = protocol
        self._client = client
        self._special = cast(Special, plan.special)
        self._call: Call | None = None
        self._over = False

    def start(self) -> SpecialCall:
        """Read what is to be read, then submit. Raises ServingError where that is known at once; later ones are answers."""
        special, service = self._special, self._service
        if special.shares and not service.regions.allowed:
            raise Unsupported(DISABLED)
        if not special.inputs:
            self._submit()
            return self
        nbytes = self._request.layout.payload_bytes
        if nbytes > service.limits.max_body_bytes:
            raise TooLarge(f"tensors of {nbytes} bytes exceed the maximum allowed size of {service.limits.max_body_bytes} bytes")
        place = body_place(service, nbytes, "tensors")
        if nbytes < THREAD_BYTES:
            self._read(place)
            self._submit()
        else:
            self._in_thread(lambda: self._read(place), self._submit_later)
        return self

    def cancel(self) -> None:
        """The client has gone."""
        self._over = True
        if self._call is not None:
            self._call.cancel()

    def answer(self, call: Call, response: InferResponse) -> None:
        """Take the model's answer, and give the owner what the client asked for."""
        layout = response.layout
        if response.code is not Code.OK or layout is None:
            self._owner.answer(call, response)
            return
        classes = layout.rows * sum(self._special.classes.values()) if self._special.classes else 0
        if layout.payload_bytes < THREAD_BYTES and classes <= THREAD_CLASSES:
            self._finish(call, response, self._write(response))
        else:
            self._in_thread(lambda: self._special.finish(response, self._service.regions.write), lambda e: self._finish(call, response, e))

    def _read(self, place: memoryview) -> None:
        """Put the payload together."""
        request, special, regions = self._request, self._special, self._service.regions
        shared = {item.place: item for item in special.inputs}
        at = 0
        for position, tensor in enumerate(request.layout.tensors):
            piece = place[at : at + tensor.nbytes]
            at += tensor.nbytes
            item = shared.get(position)
            if item is None:
                piece[:] = memoryview(request.payload[position])
            else:
                regions.read(item.region, piece)
                special.check(item, piece)
        whole: tuple[Buffer, ...] = (place,)
        request.payload = whole

    def _submit(self) -> None:
        self._call = self._service.calls.submit(self._served, self._request, self, self._plan, self._protocol, self._client)

    def _submit_later(self, error: ServingError | None) -> None:
        try:
            if error is not None:
                raise error
            self._submit()
        except ServingError as refused:
            model, version = self._served.model, self._served.version
            answer = InferResponse(model, version, None, b"", refused.code, refused.message, retry_after_s=refused.retry_after_s)
            # There is no call yet; to an error its owner looks at nothing else.
            self._owner.answer(cast(Call, self), answer)

    def _write(self, response: InferResponse) -> ServingError | None:
        try:
            self._special.finish(response, self._service.regions.write)
        except ServingError as error:
            return error
        return None

    def _finish(self, call: Call, response: InferResponse, error: ServingError | None) -> None:
        if error is not None:
            response = InferResponse(response.model, response.version, None, b"", error.code, error.message)
        self._owner.answer(call, response)

    def _in_thread(self, work: Callable[[], None], then: Callable[[ServingError | None], None]) -> None:
        """Run `work` in a thread and go on with its error or None, unless the client has gone."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, work)

        def done(_: asyncio.Future[None]) -> None:
            failure = future.exception()
            if self._over:
                return
            if failure is not None and not isinstance(failure, ServingError):
                loop.call_exception_handler({"message": f"bug in {self!r}", "exception": failure})
                failure = ServingError("internal error of the gateway")
            then(failure)

        future.add_done_callback(done)

    def __repr__(self) -> str:
        return f"SpecialCall({self._served.key}, {'over' if self._over else self._call or 'not submitted'})"
