"""One gateway's connection: frames in, entries to the queues; answers out, one frame and one write per turn of the loop."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Any, cast

import orjson

from serving.batching.entry import Answer, Entry, Kind
from serving.batching.queue import FULL
from serving.batching.reception import Reception
from serving.batching.sequence_batcher import SequenceBatcher
from serving.batching.sequences import SequenceEntry
from serving.batching.streams import Streamer
from serving.errors import Code, DecodeError, InvalidArgument, NotFound, ServingError, Unavailable
from serving.inference import Buffer, Layout
from serving.replica.intake import check
from serving.replica.polling import Polling
from serving.replica.sharing import Sharing
from serving.replica.turn import Turn
from serving.sequence import Step
from serving.tensor import Signature
from serving.wire import frame as wire
from serving.wire.arena import SHARE_BYTES, Arena
from serving.wire.frame import FLAG_EMPTY, FLAG_MORE, FLAG_SEQUENCE, FLAG_SHM, REQUEST, RESPONSE, SLOT, Frame, FrameReader

log = logging.getLogger(__name__)

WRITE_HIGH_BYTES = 8 << 20
"""Unsent answers above which no more requests of this gateway are read."""
JOIN_BYTES = 64 * 1024
"""Up to here the buffers of a write are joined: one copy of it is cheaper than an iovec per answer."""
DRAIN_GRACE_S = 2.0
"""A gateway that was sent DRAIN closes when it has all its answers. One that has not by then, and waits for none, is closed here."""

RETRY_S = 1.0
"""When a client whose request found the queue full may come again."""

_MAX_U32 = 0xFFFFFFFF


class Version:
    """What a connection needs to know of a version: its batcher and its signature."""

    __slots__ = ("batcher", "signature")

    def __init__(self, batcher: Reception, signature: Signature) -> None:
        self.batcher = batcher
        self.signature = signature


class Site:
    """What all connections of a replica share: its versions, its end of turn, its polling, who is connected."""

    def __init__(self, turn: Turn, polling: Polling, arena: Arena | None = None) -> None:
        self.turn = turn
        self.polling = polling
        self.arena = arena
        self.versions: dict[str, Version] = {}
        self.connections: set[Connection] = set()
        self.hello: dict[str, Any] = {}
        self.draining = False
        self.empty = asyncio.Event()


class Known(Kind):
    """A layout that the gateway has defined: where its requests go, or why they are refused."""

    __slots__ = ("batcher", "error")

    def __init__(self, layout: Layout, batched: bool, batcher: Reception | None, error: ServingError | None) -> None:
        super().__init__(layout, batched)
        self.batcher = batcher
        self.error = error


class Connection(asyncio.Protocol):
    """A gateway that is connected. Owner of the entries that it sent.

    A stream that is not frames closes this connection and nothing else. Where the gateway does not read its answers, its
    requests are not read either.

    local   the gateway is on this node, so large tensors may go through shared memory
    """

    def __init__(self, site: Site, local: bool = False) -> None:
        # process
        self._site = site
        self._turn = site.turn
        self._local = local
        # connection
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._greeted = False
        self._grace_ended = False
        self._peer = "?"
        self._sharing = Sharing(site.arena if local else None)
        self._frees: list[int] = []
        self._known: list[Known | None] = [None] * wire.MAX_LAYOUTS
        self._pending: dict[int, Entry] = {}
        # answers of this turn
        self._ids: dict[Answer, int] = {}
        self._defined: list[Answer] = []
        self._next_id = 0
        self._out: list[Buffer] = []
        self._table: list[bytes] = []
        self._parts: list[Buffer] = []
        self._payload_bytes = 0

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._site.connections.add(self)
        self._site.empty.clear()
        self._say_hello({"arena": self._site.arena.announce()} if self._local and self._site.arena is not None else {})
        if self._site.draining:
            self.send_drain()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        site = self._site
        site.connections.discard(self)
        pending, self._pending = self._pending, {}
        for entry in pending.values():
            _cancel(entry)
        self._sharing.close(self._loop)
        if not site.connections:
            site.empty.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                kind = frame.kind
                if kind == wire.REQUESTS and self._greeted:
                    self._take_requests(frame)
                else:
                    self._take(frame)
        except DecodeError as error:
            log.warning("gateway %s: %s; connection closed", self._peer, error.message)
            if self._transport is not None:
                self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # ---- frames that come in

    def _take_requests(self, frame: Frame) -> None:
        now = monotonic()
        self._site.polling.arrived(now, frame.count)
        known = self._known
        pending = self._pending
        payload = frame.payload
        at = 0
        batcher: Reception | None = None
        entries: list[Entry] = []
        runs: list[tuple[Reception, list[Entry]]] = []
        step: Step | None = None
        for key, layout_id, budget_us, nbytes, priority, flags, _attempt, timeout_us in REQUEST.iter_unpack(frame.table):
            stop = at + nbytes
            kind = known[layout_id] if layout_id < wire.MAX_LAYOUTS else None
            if kind is None or key in pending:
                raise DecodeError(f"request {key} has layout {layout_id}: not defined, or the key is in use")
            part = payload[at:stop]
            at = stop
            slot = -1
            if flags:
                step = None
                if flags & FLAG_SEQUENCE:
                    step, part = Step.read(part)
                if flags & FLAG_SHM:
                    part, slot = self._sharing.read(part)
                nbytes = len(part)
            target = kind.batcher
            if target is None or nbytes != kind.nbytes:
                self._refuse_unqueued(key, kind, nbytes, slot)
                continue
            deadline = now + budget_us * 1e-6 if budget_us else 0.0
            if flags and step is not None:
                entry: Entry = SequenceEntry(step, kind, part, self, key, deadline, timeout_us * 1e-6, priority, slot)
            else:
                entry = Entry(kind, part, self, key, deadline, timeout_us * 1e-6, priority, slot)
            pending[key] = entry
            if target is not batcher:
                batcher = target
                entries = []
                runs.append((target, entries))
            entries.append(entry)
        if at != len(payload):
            raise DecodeError(f"requests of {at} bytes in a payload of {len(payload)}")
        for target, entries in runs:
            target.push(entries, now)

    def _refuse_unqueued(self, key: int, kind: Known, nbytes: int, slot: int) -> None:
        if slot >= 0:
            self._frees.append(slot)
        error = kind.error or InvalidArgument(f"payload has {nbytes} bytes, but its layout {kind.nbytes}")
        self._fail(key, error.code, error.message, error.retry_after_s)

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == wire.HELLO:
            self._greet(frame)
        elif not self._greeted:
            raise DecodeError(f"frame {kind} before HELLO")
        elif kind == wire.DEFINE:
            self._define(frame)
        elif kind == wire.CANCEL:
            for (key,) in wire.KEY.iter_unpack(frame.table):
                entry = self._pending.get(key)
                if entry is not None:
                    _cancel(entry)
        elif kind == wire.TAKEN:
            for key, answers in wire.TAKE.iter_unpack(frame.table):
                self._taken(key, answers)
        elif kind == wire.FREE:
            self._sharing.free(frame.table)
        elif kind == wire.FORGET:
            self._forget(_parse(frame.payload))
            self._pong(frame)
        elif kind == wire.PING:
            self._pong(frame)
        else:
            raise DecodeError(f"frame {kind} from a gateway")

    def _pong(self, frame: Frame) -> None:
        self._seal()
        self._out.append(wire.encode_json(wire.PONG, bytes(frame.payload)))
        self._turn.flush(self)

    def _forget(self, value: dict[str, Any]) -> None:
        version = self._site.versions.get(str(value.get("m")))
        try:
            key = bytes.fromhex(str(value.get("s")))
        except ValueError as error:
            raise DecodeError(f"not the key of a sequence: {error}") from None
        if version is not None and isinstance(version.batcher, SequenceBatcher):
            version.batcher.forget(key)

    def _greet(self, frame: Frame) -> None:
        hello = _parse(frame.payload)
        if hello.get("protocol") != wire.PROTOCOL:
            raise DecodeError(f"protocol {hello.get('protocol')}, this replica speaks {wire.PROTOCOL}")
        self._peer = str(hello.get("gateway", "?"))[:100]
        self._greeted = True
        try:
            self._sharing.greet(hello)
        except Unavailable as error:
            log.warning("gateway %s: %s; its large tensors come through the socket", self._peer, error.message)
        if self._sharing.readable:
            self._say_hello({"attached": True})

    def _say_hello(self, more: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(wire.encode_json(wire.HELLO, orjson.dumps({**self._site.hello, **more})))

    def _define(self, frame: Frame) -> None:
        (layout_id,) = wire.KEY.unpack(frame.table)
        if layout_id >= wire.MAX_LAYOUTS:
            raise DecodeError(f"layout id {layout_id}, expected less than {wire.MAX_LAYOUTS}")
        value = _parse(frame.payload)
        layout = _layout(value)
        key = str(value.get("m"))
        version = self._site.versions.get(key)
        if version is None:
            error: ServingError = NotFound(f"Request for unknown model: '{key}' is not held by this replica")
            self._known[layout_id] = Known(layout, False, None, error)
            return
        try:
            check(layout, version.signature, key.partition("/")[0])
        except ServingError as mismatch:
            self._known[layout_id] = Known(layout, False, None, mismatch)
        else:
            self._known[layout_id] = Known(layout, version.signature.batched, version.batcher, None)

    # ---- Owner: answers that go out

    def answer(
        self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...], queue_us: int, compute_us: int, batch_rows: int, flags: int = 0
    ) -> None:
        """Add the answer to the frame that leaves at the end of this turn."""
        if self._pending.pop(entry.key, None) is None:
            return
        layout_id = self._ids.get(answer)
        if layout_id is None:
            layout_id = self._announce(answer)
        nbytes = answer.nbytes
        if queue_us > _MAX_U32 or compute_us > _MAX_U32:
            queue_us, compute_us = min(queue_us, _MAX_U32), min(compute_us, _MAX_U32)
        table = self._table
        if nbytes >= SHARE_BYTES and self._sharing.writable:
            record = self._sharing.write(parts, nbytes)
            if record is not None:
                flags, nbytes, parts = flags | FLAG_SHM, SLOT.size, (record,)
        if entry.slot >= 0:
            self._frees.append(entry.slot)
        table.append(RESPONSE.pack(entry.key, layout_id, nbytes, queue_us, compute_us, batch_rows, 0, flags, 0))
        self._parts += parts
        self._payload_bytes += nbytes
        if len(table) == 1:
            self._turn.flush(self)
        elif len(table) == wire.MAX_COUNT:
            self._seal()

    def part(self, entry: Entry, answer: Answer, parts: tuple[Buffer, ...]) -> None:
        """Add one of several answers to the frame; the request stays open, and so does the slot that it lies in."""
        if entry.key in self._pending:
            slot, entry.slot = entry.slot, -1
            self.answer(entry, answer, parts, 0, 0, 0, FLAG_MORE)
            entry.slot = slot
            self._pending[entry.key] = entry

    def over(self, entry: Entry, queue_us: int, compute_us: int) -> None:
        """Add to the frame that a request has no more answers."""
        if self._pending.pop(entry.key, None) is None:
            return
        if entry.slot >= 0:
            self._frees.append(entry.slot)
        queue_us, compute_us = min(queue_us, _MAX_U32), min(compute_us, _MAX_U32)
        self._table.append(RESPONSE.pack(entry.key, 0, 0, queue_us, compute_us, entry.kind.rows, 0, FLAG_EMPTY, 0))
        self._turn.flush(self)
        if len(self._table) == wire.MAX_COUNT:
            self._seal()

    def _taken(self, key: int, answers: int) -> None:
        entry = self._pending.get(key)
        if entry is None:
            return  # it is over, or was refused
        kind = entry.kind
        assert isinstance(kind, Known)
        if not isinstance(kind.batcher, Streamer):
            raise DecodeError(f"TAKEN of request {key}, which has one answer")
        kind.batcher.taken(entry, answers)

    def refuse(self, entry: Entry, code: Code, message: str, retry_after_s: float = 0.0) -> None:
        """Add an error to the frame that leaves at the end of this turn."""
        if code is Code.QUEUE_FULL:  # refused or displaced: one and the same for the client
            message, retry_after_s = FULL, RETRY_S
        if self._pending.pop(entry.key, None) is not None:
            if entry.slot >= 0:
                self._frees.append(entry.slot)
            self._fail(entry.key, code, message, retry_after_s)

    def _fail(self, key: int, code: Code, message: str, retry_after_s: float) -> None:
        text = message.encode()
        retry_ms = min(0xFFFF, int(retry_after_s * 1e3))
        self._table.append(RESPONSE.pack(key, 0, len(text), 0, 0, 0, code, 0, retry_ms))
        self._parts.append(text)
        self._payload_bytes += len(text)
        self._turn.flush(self)
        if len(self._table) == wire.MAX_COUNT:
            self._seal()

    def _announce(self, answer: Answer) -> int:
        """Give the layout an id, the oldest one where all are in use, and have the gateway told before the next record."""
        self._seal()
        layout_id = self._next_id
        self._next_id = (layout_id + 1) % wire.MAX_LAYOUTS
        if layout_id < len(self._defined):
            del self._ids[self._defined[layout_id]]
            self._defined[layout_id] = answer
        else:
            self._defined.append(answer)
        self._ids[answer] = layout_id
        self._out.append(wire.encode_define(layout_id, orjson.dumps(answer.layout.to_json())))
        return layout_id

    def _seal(self) -> None:
        """Close the frame that is being filled; what comes next is behind it on the wire."""
        table = self._table
        if table:
            self._out.append(wire.encode(wire.RESPONSES, len(table), b"".join(table), self._payload_bytes))
            self._out += self._parts
            self._table = []
            self._parts = []
            self._payload_bytes = 0

    def flush(self) -> None:
        small = self._payload_bytes <= JOIN_BYTES
        self._seal()
        out, self._out = self._out, []
        if self._frees:  # behind the answers: one of them may be a view of the very slot
            out.append(wire.encode_offsets(self._frees))
            self._frees = []
        transport = self._transport
        if transport is None:
            return
        if out:
            if small:
                transport.write(b"".join(out))
            else:
                transport.writelines(out)
        if not self._pending:
            self._site.polling.rest()
        if self._grace_ended:
            self._close_if_done()

    # ---- drain

    def send_drain(self) -> None:
        """Tell the gateway to send nothing new. It closes when it has all its answers."""
        self._seal()
        self._out.append(wire.encode_json(wire.DRAIN))
        self._turn.flush(self)
        self._loop.call_later(DRAIN_GRACE_S, self._grace_over)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _grace_over(self) -> None:
        self._grace_ended = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._site.draining and not self._pending and not self._table and not self._out and self._transport is not None:
            self._transport.close()

    def __repr__(self) -> str:
        state = "closed" if self._transport is None else "open" if self._greeted else "greeting"
        return f"Connection({self._peer}, {state}, {len(self._pending)} pending)"


def _cancel(entry: Entry) -> None:
    kind = entry.kind
    assert isinstance(kind, Known)
    if kind.batcher is not None:
        kind.batcher.cancel(entry)


def _parse(payload: memoryview) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise DecodeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DecodeError(f"JSON of type {type(value).__name__}, expected an object")
    return value


def _layout(value: dict[str, Any]) -> Layout:
    """Return the layout of a DEFINE. Raises DecodeError for anything that is not of its form."""
    try:
        layout = Layout.from_json(value)
        sizes = [layout.rows, *(t.nbytes for t in layout.tensors), *(d for t in layout.tensors for d in t.shape)]
    except (ServingError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"not a layout: {error!r}") from None
    if not all(isinstance(n, int) and -1 <= n < 1 << 40 for n in sizes) or not all(isinstance(t.name, str) for t in layout.tensors):
        raise DecodeError("not a layout: sizes must be whole numbers and names text")
    return layout
