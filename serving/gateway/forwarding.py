"""Forwarding: headers of a request as parameters of its model, where the settings ask for it. What a head says is found once per head."""

from __future__ import annotations

import re

from serving.errors import InvalidArgument
from serving.gateway.head import Head
from serving.inference import InferRequest, Layout
from serving.protocol.recent import Recent

Pairs = tuple[tuple[str, str], ...]

RESERVED = frozenset(("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output"))
SECRET = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
"""Never handed on, whatever the pattern says."""


class Forwarding:
    """`pattern` is held against whole names, without regard to case; "" forwards nothing. The header wins over a parameter of its name."""

    def __init__(self, pattern: str = "") -> None:
        self.pattern = pattern
        self._pattern = re.compile(pattern, re.IGNORECASE) if pattern else None
        self._layouts: Recent[tuple[int, Pairs], tuple[Layout, Layout]] = Recent(1024)
        """By id(): a kept layout is not used again, and two that are equal may differ in the types of their parameters."""

    def of(self, head: Head) -> Pairs:
        """Return the headers to forward, names in lower case."""
        if self._pattern is None:
            return ()
        found: dict[str, str] = {}
        for name, value in head.headers.items():
            text = name.decode("latin-1")
            if name in SECRET or not self._pattern.fullmatch(text):
                continue
            found[text] = value.decode("latin-1")
        return tuple(sorted(found.items()))

    def put(self, request: InferRequest, pairs: Pairs) -> None:
        """Give the request the parameters; requests that look alike go on sharing one layout.

        Raises InvalidArgument for a name that is the protocol's own.
        """
        layout = request.layout
        kept = self._layouts.find((id(layout), pairs))
        if kept is None or kept[0] is not layout:
            for name, _ in pairs:
                if name in RESERVED or name.startswith("triton_"):
                    raise InvalidArgument(f"header '{name}' cannot be forwarded: parameters of that name are reserved")
            parameters = tuple(sorted({**dict(layout.parameters), **dict(pairs)}.items()))
            kept = layout, Layout(layout.tensors, layout.outputs, parameters, layout.rows)
            self._layouts.keep((id(layout), pairs), kept)
        request.layout = kept[1]
