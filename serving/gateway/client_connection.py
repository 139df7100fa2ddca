"""ClientConnection: what the server sees of a client's connection, whatever it speaks: a socket, with bytes that have not left yet."""

from __future__ import annotations

import asyncio


class ClientConnection:
    """Base of both kinds; keeps nothing itself, so that heirs may have slots."""

    __slots__ = ()

    _transport: asyncio.Transport

    def fileno(self) -> int:
        """Return the descriptor of the socket, -1 once it is closing."""
        return -1 if self._transport.is_closing() else int(self._transport.get_extra_info("socket").fileno())

    @property
    def unwritten_bytes(self) -> int:
        """What the client has not taken yet of what was written."""
        return 0 if self._transport.is_closing() else self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()
