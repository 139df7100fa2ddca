"""A protobuf message as plain JSON values in the way that Triton's clients read them.

Not `google.protobuf.json_format`: names as in the proto file, 64-bit integers as numbers (not text), fields without a value printed
with their default, and sub-messages that are not set left out, because clients look at their mere presence.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_MESSAGE: Final = FieldDescriptor.TYPE_MESSAGE


def to_plain(message: Message) -> dict[str, Any]:
    """Return the message as dicts, lists, text and numbers."""
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            if field.type == _MESSAGE and field.message_type.GetOptions().map_entry:
                (content,) = [f for f in field.message_type.fields if f.name == "value"]
                plain[field.name] = {str(key): _value(content, value[key]) for key in sorted(value)}
            else:
                plain[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            plain[field.name] = _value(field, value)
    return plain


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.type == _MESSAGE:
        return to_plain(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.decode("latin-1")
    return value
