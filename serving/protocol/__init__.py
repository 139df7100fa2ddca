"""Bytes of the public protocols to values and back. Pure: no sockets, no asyncio, no clock."""
