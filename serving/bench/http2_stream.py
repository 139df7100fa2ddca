"""A stream of HTTP/2: one request, and what was read of its answer."""

from __future__ import annotations

from serving.bench.http2_headers import Fields, status_name
from serving.bench.ticket import Ticket

_LARGEST_TEMPLATE = 65536


class Stream:
    """One request whose answer is being read.

    template   the frames of the answer, cut where the stream's number stands, while the answer may still become `good`
    """

    __slots__ = ("body", "checked", "data_bytes", "grpc_status", "message", "prefix", "since", "start", "status", "template", "ticket")

    def __init__(self, ticket: Ticket, start: int, since: int, stateless: bool) -> None:
        self.ticket = ticket
        self.start = start
        self.since = since
        self.checked = ticket.wants_body()
        self.body = bytearray()
        self.data_bytes = 0
        self.prefix = b""
        self.status = 0
        self.grpc_status = -1
        self.message = ""
        self.template: list[bytes] | None = [b""] if stateless and ticket.trusts(self.checked) else None

    def take_frame(self, head: bytes, payload: bytes) -> None:
        """Add a frame to the template; `head` is its first five bytes."""
        template = self.template
        if template is not None:
            if len(payload) > _LARGEST_TEMPLATE:
                self.template = None
            else:
                template[-1] += head
                template.append(payload)

    def take_data(self, data: bytes) -> None:
        if len(self.prefix) < 5:
            self.prefix += data[: 5 - len(self.prefix)]
        self.data_bytes += len(data)
        if self.data_bytes > _LARGEST_TEMPLATE:
            self.template = None
        if self.checked:
            self.body += data

    def take_fields(self, fields: Fields) -> None:
        """Take headers or trailers; those of an interim answer (1xx) say nothing."""
        if fields.status >= 200:
            self.status = fields.status
        if fields.grpc_status >= 0:
            self.grpc_status = fields.grpc_status
            self.message = fields.message

    def verdict(self) -> tuple[str, str] | None:
        """Return (kind, text) of what is wrong with the answer, now that it is complete; None where it is good."""
        if self.status != 200:
            return f"http {self.status // 100}xx", f"{self.status} {self.message}".strip()
        if self.grpc_status < 0:
            return "bad answer", "no grpc-status"
        if self.grpc_status:
            return f"grpc {status_name(self.grpc_status)}", self.message
        if len(self.prefix) < 5 or self.prefix[0] > 1 or int.from_bytes(self.prefix[1:], "big") != self.data_bytes - 5:
            return "bad answer", f"status OK with {self.data_bytes} bytes that begin with {self.prefix!r}: not one message"
        wrong = self.ticket.judge(bytes(self.body)) if self.checked else None
        return None if wrong is None else ("wrong body", wrong)
