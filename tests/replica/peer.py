"""A gateway of a few lines: speaks frames over a blocking socket, so that tests see exactly what is on the wire."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from serving.errors import Code
from serving.inference import Layout, TensorLayout
from serving.tensor import DType
from serving.wire import frame as wire
from serving.wire.arena import Arena, PeerArena


@dataclass
class Reply:
    key: int
    code: Code
    layout: Layout | None
    payload: bytes
    queue_us: int
    compute_us: int
    batch_rows: int

    @property
    def message(self) -> str:
        return self.payload.decode()

    def array(self, index: int = 0) -> np.ndarray[Any, Any]:
        assert self.layout is not None, self.message
        at = sum(t.nbytes for t in self.layout.tensors[:index])
        tensor = self.layout.tensors[index]
        return np.frombuffer(self.payload[at : at + tensor.nbytes], tensor.dtype.numpy).reshape(tensor.shape)


class Peer:
    """One connection to a replica. `frames` counts what came, by kind."""

    def __init__(self, address: str, *, greet: bool = True, timeout_s: float = 60.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(address)
        self._start()
        if greet:
            self.send(wire.encode_json(wire.HELLO, b'{"protocol":1,"gateway":"peer"}'))

    def _start(self) -> None:
        self.reader = wire.FrameReader()
        self.inbox: list[tuple[int, int, bytes, bytes]] = []
        self.layouts: dict[int, Layout] = {}
        self.replies: dict[int, Reply] = {}
        self.frames: list[int] = []
        self.frees: list[int] = []
        self.hello: dict[str, Any] = orjson.loads(self.read(wire.HELLO)[3])

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def define(self, layout_id: int, key: str, layout: Layout) -> None:
        self.send(wire.encode_define(layout_id, orjson.dumps({"m": key, **layout.to_json()})))

    def request(self, layout_id: int, payloads: dict[int, bytes], **record: int) -> None:
        self.send(requests([(key, layout_id, payload) for key, payload in payloads.items()], **record))

    def read(self, kind: int) -> tuple[int, int, bytes, bytes]:
        """Return the next frame of that kind; RESPONSES and DEFINE on the way are taken in."""
        while True:
            while self.inbox:
                frame = self.inbox.pop(0)
                if frame[0] == kind:
                    return frame
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError
            for frame in self.reader.feed(data):
                self.frames.append(frame.kind)
                self._take(frame)
                self.inbox.append((frame.kind, frame.count, bytes(frame.table), bytes(frame.payload)))

    def _take(self, frame: wire.Frame) -> None:
        if frame.kind == wire.DEFINE:
            self.layouts[wire.KEY.unpack(frame.table)[0]] = Layout.from_json(orjson.loads(frame.payload))
        elif frame.kind == wire.RESPONSES:
            at = 0
            for key, layout_id, nbytes, queue_us, compute_us, rows, code, flags, _ in wire.RESPONSE.iter_unpack(frame.table):
                payload = self._payload(bytes(frame.payload[at : at + nbytes]), flags)
                at += nbytes
                assert key not in self.replies, f"two answers to {key}"
                layout = self.layouts[layout_id] if code == 0 else None
                self.replies[key] = Reply(key, Code(code), layout, payload, queue_us, compute_us, rows)
            assert at == len(frame.payload)
        elif frame.kind == wire.FREE:
            self.frees += [offset for (offset,) in wire.OFFSET.iter_unpack(frame.table)]

    def _payload(self, inline: bytes, flags: int) -> bytes:
        assert not flags
        return inline

    def wait(self, *keys: int) -> list[Reply]:
        """Return the replies to these keys, waiting for them."""
        while not all(key in self.replies for key in keys):
            self.read(wire.RESPONSES)
        return [self.replies[key] for key in keys]

    def ping(self, body: bytes = b"{}") -> bytes:
        """Return what comes back; everything sent before has been read by the replica then."""
        self.send(wire.encode_json(wire.PING, body))
        return self.read(wire.PONG)[3]

    def ended(self) -> bool:
        """Wait for the replica to close; return True where it did."""
        try:
            while True:
                self.read(0)
        except (EOFError, ConnectionError):
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class SharingPeer(Peer):
    """A gateway on the same node: its large payloads go through its arena, the replica's come through the replica's."""

    def __init__(self, address: str, *, nbytes: int = 1 << 24, attach: bool = True) -> None:
        self.arena = Arena.create(nbytes)
        super().__init__(address, greet=False)
        self.theirs = PeerArena.open(**self.hello["arena"]) if attach else None
        self.taken: list[int] = []
        hello = {"protocol": 1, "gateway": "sharing", "attached": attach, "arena": self.arena.announce()}
        self.send(wire.encode_json(wire.HELLO, orjson.dumps(hello)))
        self.attached = orjson.loads(self.read(wire.HELLO)[3])["attached"]

    def share(self, layout_id: int, payloads: dict[int, bytes], **record: int) -> dict[int, int]:
        """Send requests whose payloads lie in the arena; return the offset of each key's slot."""
        offsets = {}
        records = []
        for key, payload in payloads.items():
            slot = self.arena.allocate(len(payload))
            assert slot is not None
            self.arena.view(slot)[:] = payload
            offsets[key] = slot.offset
            records.append((key, layout_id, wire.SLOT.pack(*slot)))
        self.send(requests(records, flags=wire.FLAG_SHM, **record))
        return offsets

    def _payload(self, inline: bytes, flags: int) -> bytes:
        if not flags:
            return inline
        assert self.theirs is not None
        offset, nbytes = wire.SLOT.unpack(inline)
        self.taken.append(offset)
        return bytes(self.theirs.view(offset, nbytes))

    def close(self) -> None:
        super().close()
        self.arena.close()


def requests(
    records: Sequence[tuple[int, int, bytes]], *, budget_us: int = 0, priority: int = 0, timeout_us: int = 0, flags: int = 0
) -> bytes:
    """Return a REQUESTS frame of (key, layout id, payload)."""
    table = b"".join(wire.REQUEST.pack(key, lid, budget_us, len(data), priority, flags, 0, timeout_us) for key, lid, data in records)
    payload = b"".join(data for _, _, data in records)
    return wire.encode(wire.REQUESTS, len(records), table, len(payload)) + payload


def vector(rows: int, width: int = 4, name: str = "x") -> Layout:
    """Return the layout of FP32 [rows, width]."""
    return Layout((TensorLayout.fixed(name, DType.FP32, (rows, width)),), rows=rows)
