"""SocketChannel: the way to one replica over a Unix socket or TCP, in frames.

Calls of one turn of the loop leave in one REQUESTS frame and one write; cancels of one turn in one CANCEL frame.
Whatever is wrong with what a replica sends (garbage, silence, end of file) costs this connection and nothing else:
its calls are handed back to the `ChannelOwner`, which decides about each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

import orjson

from serving.errors import Code, DecodeError, InvalidArgument
from serving.gateway.call import NO_DETAILS, Call, ChannelOwner, Deliver, Description, Served, StreamCall
from serving.gateway.layouts import LayoutCache, LayoutIds
from serving.gateway.sharing import SharedMemory, Sharing
from serving.inference import Buffer, InferResponse, Layout, SequenceRequest
from serving.tensor import Signature
from serving.wire import frame as wire
from serving.wire.arena import SHARE_BYTES
from serving.wire.frame import (
    FLAG_EMPTY,
    FLAG_SEQUENCE,
    FLAG_SHM,
    KEY,
    MAX_COUNT,
    MAX_LAYOUTS,
    REQUEST,
    RESPONSE,
    RESPONSES,
    SLOT,
    Frame,
    FrameReader,
)

SILENT_TICKS = 4
"""Ticks (of a second, see `Peers`) without a byte from a replica that was pinged: it is lost."""
DRAINED = "drained"
"""Reason of a connection that ended as it should."""
HIGH_WATER_BYTES = 32 << 20
LOW_WATER_BYTES = 8 << 20
MAX_BUFFER_BYTES = 256 << 20
JOIN_BYTES = 64 * 1024
"""Payloads up to this size in all are copied into one buffer with their table; larger ones go to the kernel as they lie."""

_KEY_MASK = 0xFFFFFFFF
_OK = Code.OK
_CODES = tuple(Code)


class SocketChannel(asyncio.Protocol):
    """See `call.Channel`. `closed` is done when the connection is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: ChannelOwner,
        deliver: Deliver,
        responses: LayoutCache,
        gateway: str = "gateway",
        memory: SharedMemory | None = None,
    ) -> None:
        self.inflight = 0
        self.paused = False
        self.usable = False
        self.versions: dict[str, Description] = {}
        self.replica = ""
        self.since = 0.0
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._owner = owner
        self._deliver = deliver
        self._gateway = gateway
        self._transport: asyncio.Transport
        self._lost = False
        self._retired = False
        self._silent = 0
        self._greeted = False
        self._sharing = Sharing(memory, self._schedule)
        # Down.
        self._queue: list[Call] = []
        self._cancels: list[int] = []
        self._taken: dict[int, int] = {}
        self._scheduled = False
        self._calls: dict[int, Call] = {}
        self._key = 0
        self._ids = LayoutIds()
        self._forgets: dict[int, Callable[[], None]] = {}
        self._forget_key = 0
        # Up.
        self._reader = FrameReader()
        self._responses = responses
        self._layouts: dict[int, Layout] = {}

    # Down: calls to the replica.

    def send(self, call: Call) -> None:
        self.inflight += 1
        self._queue.append(call)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _schedule(self) -> None:
        if not self._scheduled and not self._lost:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def cancel(self, call: Call) -> None:
        self.inflight -= 1
        call.channel = None
        # A call that is still in the queue is left there: `_flush` passes over what is not its own any more.
        if self._calls.pop(call.key, None) is not None:
            self._cancels.append(call.key)
            self._schedule()

    def took(self, call: Call, answers: int) -> None:
        if call.key:
            self._taken[call.key] = self._taken.get(call.key, 0) + answers
            self._schedule()

    def forget(self, key: str, sequence: bytes, done: Callable[[], None]) -> None:
        if self._lost:
            done()
            return
        self._forget_key += 1
        self._forgets[self._forget_key] = done
        body = {"n": self._forget_key, "m": key, "s": sequence.hex()}
        self._transport.write(wire.encode_json(wire.FORGET, orjson.dumps(body)))

    def _take_forgotten(self, body: bytes) -> None:
        try:
            done = self._forgets.pop(orjson.loads(body)["n"])
        except (ValueError, TypeError, KeyError) as e:
            raise DecodeError(f"PONG to a question that was not asked: {e}") from e
        done()

    def room(self) -> bool:
        return self._transport.get_write_buffer_size() < MAX_BUFFER_BYTES

    def _flush(self) -> None:
        self._scheduled = False
        if self._lost:
            return
        parts: list[Buffer] = []
        if self._cancels:
            cancels = self._cancels
            self._cancels = []
            parts.append(wire.encode_keys(wire.CANCEL, cancels))
        if self._taken:
            taken = self._taken
            self._taken = {}
            parts.append(wire.encode_taken(taken))
        if self._sharing.frees:
            frees = self._sharing.frees
            self._sharing.frees = []
            parts.append(wire.encode_offsets(frees))
        if self._queue:
            queue = self._queue
            self._queue = []
            self._write_requests(queue, parts)
        elif parts:
            self._transport.write(b"".join(parts))
        if self._retired:
            self._close_when_done()

    def _write_requests(self, queue: list[Call], parts: list[Buffer]) -> None:
        """Write `parts`, the DEFINEs that the calls need, and the calls in one frame (more only where it must be)."""
        calls = self._calls
        ids = self._ids
        find = ids.find
        pack = REQUEST.pack
        key = self._key
        now = monotonic()
        sharing = self._sharing
        table: list[bytes] = []
        payload: list[Buffer] = []
        payload_bytes = 0
        refused: list[Call] = []
        mixed = len(self.versions) > 1
        # Tensor bytes less payload bytes: of what is in shared memory, of steps, of frames that have left. One sum a frame is cheaper.
        besides = 0
        # Neighbours mostly look alike: 0.15 µs less than to find it anew for each (benchmarks/micro/channel.py, 32 calls).
        asked: Layout | None = None
        of: Served | None = None
        layout_id = -1
        for call in queue:
            if call.channel is not self:
                continue  # cancelled before it left
            request = call.request
            if request.layout is not asked or call.served is not of:
                asked, of = request.layout, call.served
                layout_id = find(of.key, asked)
            if layout_id < 0 or len(table) == MAX_COUNT:
                if table and (ids.full or layout_id >= 0):
                    # The new layout takes an id that records of this frame may use, or the frame is full.
                    self._write(parts, table, payload, payload_bytes)
                    besides += payload_bytes
                    parts, table, payload, payload_bytes = [], [], [], 0
                if layout_id < 0:
                    layout_id, body = ids.define(call.served.key, request.layout)
                    parts.append(wire.encode_define(layout_id, body))
            key = (key + 1) & _KEY_MASK or 1
            while key in calls:
                key = (key + 1) & _KEY_MASK or 1
            nbytes = call.payload_bytes
            pieces = request.payload
            if (len(pieces) != 1 or len(pieces[0]) != nbytes) and sum([memoryview(p).nbytes for p in pieces]) != nbytes:
                # It would shift all that follow on this connection.
                refused.append(call)
                continue
            if mixed:
                call.served.tally.request_bytes += nbytes
            flags = 0
            if nbytes >= SHARE_BYTES and sharing.writable:
                lent = sharing.lend(pieces, nbytes)
                if lent is not None:
                    besides += nbytes - SLOT.size
                    flags, nbytes, pieces = FLAG_SHM, SLOT.size, (lent,)
            if call.lane is not None:
                step = cast(SequenceRequest, request).step.wire
                besides -= len(step)
                flags, nbytes, pieces = flags | FLAG_SEQUENCE, nbytes + len(step), (step, *pieces)
            deadline = request.deadline
            budget_us = max(1, int((deadline - now) * 1e6)) if deadline else 0
            table.append(pack(key, layout_id, budget_us, nbytes, request.priority, flags, call.attempt, request.timeout_us))
            call.key = key
            calls[key] = call
            payload += pieces
            payload_bytes += nbytes
        self._key = key
        if not mixed:  # all are of one version: benchmarks/micro/channel.py
            call.served.tally.request_bytes += payload_bytes + besides
        if table or parts:
            self._write(parts, table, payload, payload_bytes)
        for call in refused:
            if call.channel is self:
                self.inflight -= 1
                served = call.served
                message = "payload of the request does not fit its layout"
                self._deliver(call, InferResponse(served.model, served.version, None, b"", Code.INTERNAL, message), now)

    def _write(self, parts: list[Buffer], table: list[bytes], payload: list[Buffer], payload_bytes: int) -> None:
        if table:
            parts.append(wire.encode(wire.REQUESTS, len(table), b"".join(table), payload_bytes))
            parts += payload
        if payload_bytes <= JOIN_BYTES:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    # Up: what the replica sends.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        self._owner.connected(self)

    def data_received(self, data: bytes) -> None:
        self._silent = 0
        try:
            for frame in self._reader.feed(data):
                if frame.kind == RESPONSES:
                    self._take_responses(frame)
                else:
                    self._take(frame)
                if self._lost:
                    return
        except DecodeError as e:
            self._lose(f"garbage from the replica: {e.message}")
            return
        if self._retired:
            self._close_when_done()

    def _take_responses(self, frame: Frame) -> None:
        calls = self._calls
        layouts = self._layouts
        deliver = self._deliver
        payload = frame.payload
        end = len(payload)
        now = monotonic()
        mixed = len(self.versions) > 1
        at = 0
        # Bytes of the payload that are no tensors counted here, less those of tensors in shared memory.
        besides = 0
        served: Served | None = None
        for key, layout_id, nbytes, queue_us, compute_us, rows, code, flags, retry_ms in RESPONSE.iter_unpack(frame.table):
            stop = at + nbytes
            if stop > end:
                break
            part = payload[at:stop]
            at = stop
            if flags:
                if flags & FLAG_SHM:
                    part = self._sharing.read(part)
                    besides += nbytes - len(part)
                    nbytes = len(part)
                if flags > FLAG_SHM:
                    besides += nbytes
                    self._take_one_of_many(key, layout_id, part, queue_us, compute_us, flags, now)
                    continue
            call = calls.get(key)
            if call is not None:
                served = call.served
                if not code:
                    layout = layouts.get(layout_id)
                    if layout is None or layout.payload_bytes != nbytes:
                        raise DecodeError(f"answer of {nbytes} bytes with layout {layout_id}, which is {layout}")
                    if mixed:
                        served.tally.response_bytes += nbytes
                    response = InferResponse(
                        served.model, served.version, layout, part, _OK, "", queue_us, compute_us, rows
                    )  # fmt: skip
                else:
                    besides += nbytes
                    response = InferResponse(
                        served.model, served.version, None, b"", _CODES[code] if code < len(_CODES) else Code.INTERNAL,
                        str(part, "utf-8", "replace"), queue_us, compute_us, rows, retry_ms / 1000,
                    )  # fmt: skip
                del calls[key]
                self.inflight -= 1
                deliver(call, response, now)
            else:  # late, its call was cancelled
                besides += nbytes
        if not mixed and served is not None:
            served.tally.response_bytes += end - besides
        if at != end:
            raise DecodeError(f"RESPONSES with {end} bytes of payload, whose records say otherwise")

    def _take_one_of_many(
        self, key: int, layout_id: int, part: memoryview, queue_us: int, compute_us: int, flags: int, now: float
    ) -> None:  # fmt: skip
        """Take an answer after which others come, or the end of them."""
        call = self._calls.get(key)
        if call is None:
            return  # late, it was cancelled
        if not isinstance(call, StreamCall):
            raise DecodeError(f"one of several answers to a call of {call.served.key}, which gives one")
        served = call.served
        if flags & FLAG_EMPTY:
            del self._calls[key]
            self.inflight -= 1
            self._deliver(call, InferResponse(served.model, served.version, None, b"", _OK, "", queue_us, compute_us, 1), now)
            return
        layout = self._layouts.get(layout_id)
        if layout is None or layout.payload_bytes != len(part):
            raise DecodeError(f"answer of {len(part)} bytes with layout {layout_id}, which is {layout}")
        served.tally.response_bytes += len(part)
        call.home.part(call, InferResponse(served.model, served.version, layout, part), now)

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == wire.DEFINE:
            if frame.count != 1:
                raise DecodeError("DEFINE of other than one layout")
            (layout_id,) = KEY.unpack(frame.table)
            if layout_id >= MAX_LAYOUTS:
                raise DecodeError(f"layout id {layout_id} is out of range")
            self._layouts[layout_id] = self._responses.get(bytes(frame.payload))
        elif kind == wire.HELLO:
            self._take_hello(bytes(frame.payload))
        elif kind == wire.FREE:
            self._sharing.take_back(frame.table)
        elif kind == wire.DRAIN:
            self.retire()
        elif kind == wire.PONG:
            if len(frame.payload):
                self._take_forgotten(bytes(frame.payload))
        else:
            raise DecodeError(f"frame of kind {kind} does not go this way")

    def _take_hello(self, body: bytes) -> None:
        """Take over what the replica is; answer its first HELLO with ours, which is the first frame that we send."""
        hello, self.versions = _read_hello(body)
        self.replica = str(hello.get("replica", ""))
        more = self._sharing.greet(hello)
        if not self._greeted:
            self._greeted = True
            self.since = monotonic()
            self._transport.write(wire.encode_json(wire.HELLO, orjson.dumps({"protocol": wire.PROTOCOL, "gateway": self._gateway, **more})))
        self.usable = not self._retired
        self._owner.ready(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    # Life.

    def calls(self) -> list[Call]:
        return [*self._calls.values(), *(c for c in self._queue if c.channel is self)]

    def tick(self) -> None:
        if self._silent >= SILENT_TICKS:
            self._lose("silent")
        elif not self._lost:
            self._silent += 1
            if self._greeted:
                self._transport.write(wire.encode_json(wire.PING))
            if self._sharing.frees:
                self._schedule()

    def retire(self) -> None:
        self._retired = True
        if self.usable:
            self.usable = False
            self._owner.draining(self)
        if not self._scheduled:
            self._close_when_done()

    def _close_when_done(self) -> None:
        if not self.inflight and not self._scheduled:
            self._lose(DRAINED)

    def close(self, reason: str) -> None:
        self._lose(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(f"connection lost: {exc}" if exc else "connection closed by the replica")

    def _lose(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        self.usable = False
        sent = list(self._calls.values())
        unsent = [c for c in self._queue if c.channel is self]
        self._calls.clear()
        self._queue.clear()
        self.inflight = 0
        for call in sent:
            call.channel = None
            call.key = 0
        for call in unsent:
            call.channel = None
        self._sharing.close()
        self._transport.abort()
        self.closed.set_result(reason)
        self._owner.lost(self, sent, unsent, reason)
        forgets, self._forgets = self._forgets, {}
        for done in forgets.values():
            done()

    def __repr__(self) -> str:
        state = "lost" if self._lost else "usable" if self.usable else "drained" if self._retired else "no HELLO yet"
        return f"SocketChannel({state}, {self.inflight} in flight{', paused' if self.paused else ''})"


def _read_hello(body: bytes) -> tuple[dict[str, Any], dict[str, Description]]:
    """Return a replica's HELLO, and its versions by key. Raises DecodeError."""
    try:
        hello = orjson.loads(body)
        if hello["protocol"] != wire.PROTOCOL:
            raise DecodeError(f"replica speaks protocol {hello['protocol']}, this gateway {wire.PROTOCOL}")
        found = [
            Description(v["model"], v["version"], Signature.from_json(v["signature"]), v["platform"], v.get("details", NO_DETAILS))
            for v in hello["versions"]
        ]
        return hello, {d.key: d for d in found}
    except (ValueError, TypeError, KeyError, AttributeError, InvalidArgument) as e:
        raise DecodeError(f"HELLO that cannot be read: {e}") from e
