"""HeaderTable: what an HTTP/2 client's header blocks mean (HPACK). Pure: bytes in, fields out. Source: RFC 7541.

Ours and not hpack's, which takes 70 µs for a block of seven fields: clients that send a trace id or a token of their own with each call
never send a block twice, and who wants to keep a gateway busy does the same. Words that come again are not decoded again.
"""

from __future__ import annotations

from typing import Final

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable as Reference

TABLE_BYTES: Final = 4096
"""The size that every client may use: we announce no other."""
ENTRY_BYTES: Final = 32
"""What a field counts besides its text."""
MAX_WORDS: Final = 4096
MAX_WORD_BYTES: Final = 128

Field = tuple[bytes, bytes]

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *((bytes(name), bytes(value)) for name, value in Reference.STATIC_TABLE))
_DYNAMIC: Final = len(_STATIC)


class BadBlock(Exception):
    """A block that means nothing: the table is lost with it."""


class LongBlock(Exception):
    """A block of more fields than are allowed."""


class Words:
    """Texts by their Huffman code, for all connections of a process. Bounded: cleared when full.

    Long ones are not kept, nor what its client says to keep nowhere (fields that are never indexed: tokens, passwords).
    """

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def read(self, code: bytes, keep: bool) -> bytes:
        """Return the text. Raises HPACKError."""
        found = self._known.get(code)
        if found is None:
            found = decode_huffman(code)
            if keep and len(code) <= MAX_WORD_BYTES:
                if len(self._known) >= MAX_WORDS:
                    self._known.clear()
                self._known[code] = found
        return found


_WORDS = Words()


class HeaderTable:
    """The table of one client: its blocks are to be read in order, each once."""

    __slots__ = ("_bytes", "_entries", "_limit", "max_list_bytes")

    def __init__(self, max_list_bytes: int) -> None:
        self.max_list_bytes = max_list_bytes
        """What the fields of a block may have, each with ENTRY_BYTES."""
        self._entries: list[Field] = []
        """The newest first."""
        self._bytes = 0
        self._limit = TABLE_BYTES

    def read(self, block: bytes) -> tuple[list[Field], bool]:
        """Return the fields, and whether the block has changed the table: then it would mean something else the next time.

        Raises BadBlock, or LongBlock.
        """
        try:
            return self._read(block)
        except IndexError:
            raise BadBlock("it ends too early, or names a field that is not there") from None
        except HPACKError as error:
            raise BadBlock(str(error)) from None

    def _read(self, block: bytes) -> tuple[list[Field], bool]:
        fields: list[Field] = []
        changed = False
        room = self.max_list_bytes
        at, end = 0, len(block)
        while at < end:
            first = block[at]
            at += 1
            if first & 0x80:
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _number(block, at, 0x7F)
                field = self._at(index)
            elif first & 0xE0 == 0x20:
                if fields:
                    raise BadBlock("the table's size changes in the middle")
                size = first & 0x1F
                if size == 0x1F:
                    size, at = _number(block, at, 0x1F)
                self._resize(size)
                changed = True
                continue
            else:
                keep = first & 0x40
                most = 0x3F if keep else 0x0F
                index = first & most
                if index == most:
                    index, at = _number(block, at, most)
                if index:
                    name = self._at(index)[0]
                else:
                    name, at = _text(block, at, True)
                value, at = _text(block, at, first & 0xF0 != 0x10)
                field = name, value
                if keep:
                    changed = True
                    self._add(field)
            room -= ENTRY_BYTES + len(field[0]) + len(field[1])
            if room < 0:
                raise LongBlock
            fields.append(field)
        return fields, changed

    def _at(self, index: int) -> Field:
        if index >= _DYNAMIC:
            return self._entries[index - _DYNAMIC]
        if not index:
            raise BadBlock("field 0")
        return _STATIC[index]

    def _add(self, field: Field) -> None:
        self._entries.insert(0, field)
        self._bytes += ENTRY_BYTES + len(field[0]) + len(field[1])
        self._shrink()

    def _resize(self, size: int) -> None:
        if size > TABLE_BYTES:
            raise BadBlock(f"a table of {size} bytes")
        self._limit = size
        self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._limit:
            name, value = self._entries.pop()
            self._bytes -= ENTRY_BYTES + len(name) + len(value)

    def __repr__(self) -> str:
        return f"HeaderTable({len(self._entries)} fields, {self._bytes} of {self._limit} bytes)"


def _number(block: bytes, at: int, number: int) -> tuple[int, int]:
    """Return the rest of a number that does not fit into the prefix `number`, and where it ends."""
    shift = 0
    while True:
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 28:
            raise BadBlock("a number of more than 32 bits")


def _text(block: bytes, at: int, keep: bool) -> tuple[bytes, int]:
    first = block[at]
    at += 1
    size = first & 0x7F
    if size == 0x7F:
        size, at = _number(block, at, 0x7F)
    stop = at + size
    if stop > len(block):
        raise BadBlock("a text without its end")
    text = block[at:stop]
    return _WORDS.read(text, keep) if first & 0x80 else text, stop
