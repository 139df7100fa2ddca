"""Bodies of requests that do not fit into one frame or window, on their way as fast as the server's windows let them. Pure."""

from __future__ import annotations

from collections import deque

from serving.bench import http2_frames as h2

_BURST = 256 * 1024


class _Upload:
    __slots__ = ("at", "body", "key", "window")

    def __init__(self, key: bytes, body: bytes, window: int) -> None:
        self.key = key
        self.body = memoryview(body)
        self.at = 0
        self.window = window


class Uploads:
    """The bodies of one connection. They take turns, frame by frame."""

    def __init__(self) -> None:
        self._waiting: deque[_Upload] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, key: bytes, body: bytes, window: int) -> None:
        """Take a body; `window` is what the server takes on a new stream."""
        self._waiting.append(_Upload(key, body, window))

    def drop(self, key: bytes) -> bool:
        """Forget the body of this stream; return whether there was one."""
        for upload in self._waiting:
            if upload.key == key:
                self._waiting.remove(upload)
                return True
        return False

    def widen(self, increment: int, key: bytes | None = None) -> None:
        """The server takes more on this stream, or on all (less, where it is negative)."""
        for upload in self._waiting:
            if key is None or upload.key == key:
                upload.window += increment

    def cut(self, out: list[bytes | memoryview], window: int, max_frame: int) -> int:
        """Add the next DATA frames to `out`, at most about 256 KB; return how much of the connection's window they take."""
        made = blocked = 0
        waiting = self._waiting
        while blocked < len(waiting) and made < min(_BURST, window):
            upload = waiting.popleft()
            left = len(upload.body) - upload.at
            size = min(max_frame, window - made, upload.window, left)
            if size <= 0:
                blocked += 1
                waiting.append(upload)
                continue
            blocked = 0
            out.append(h2.before_stream(size, h2.Frame.DATA, h2.END_STREAM if size == left else 0) + upload.key)
            out.append(upload.body[upload.at : upload.at + size])
            upload.at += size
            upload.window -= size
            made += size
            if size < left:
                waiting.append(upload)
        return made
