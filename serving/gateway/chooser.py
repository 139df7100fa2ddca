"""Chooser: one route that shares its requests out, ready to say which version answers.

What follows from a request's head alone is kept with the head, which is shared by all requests with the same bytes; what follows from
its parameters alone is kept with these. A version without a ready replica is stood in for: by the stable one, else by the ready one with
the largest share. Its keys and points stay its own, so all is as before when it is back.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from random import random
from typing import Protocol, cast

from serving.gateway.call import Served
from serving.gateway.head import Head
from serving.inference import Buffer
from serving.protocol.grpc_head import GrpcHead
from serving.protocol.parameters import NONE, ParameterReader, Parameters
from serving.routing import GOLDEN, POINTS, Conditions, Route, key_bytes, keyed_parts, parts_in_turn, point_of

Said = Buffer | GrpcHead
"""A request as far as it has been read: a REST body, or the head of a gRPC message."""

MAX_ADDRESSES = 4096
_IN_TURN, _BY_ADDRESS = -1, -2


class Asker(Protocol):
    """Who asks: a connection with its request."""

    head: Head

    @property
    def address(self) -> bytes:
        """Return the name of the client's address."""


class Chooser:
    """Made once per route as it is; `settle` tells who can answer."""

    __slots__ = (
        "_addresses",
        "_at",
        "_by_header",
        "_conditions",
        "_given",
        "_in_turn",
        "_keyed",
        "_names",
        "_of_rule",
        "_reader",
        "_reads",
        "_salt",
        "_sequences",
        "_sticky",
        "_targets",
        "_token",
        "holder",
        "route",
    )

    def __init__(self, route: Route, reader: ParameterReader) -> None:
        self.route = route
        traffic = route.traffic
        shares = route.shares
        self._names = list(dict.fromkeys([*shares, *(r.version for r in traffic.rules)]))
        places = {version: i for i, version in enumerate(self._names)}
        self._in_turn = array("i", [places[v] for v in parts_in_turn(shares)])
        self._keyed = array("i", [places[v] for v in keyed_parts(shares)])
        self._conditions = Conditions(traffic.rules)
        self._of_rule = [places[r.version] for r in traffic.rules]
        self._sticky = traffic.sticky
        self._salt = route.endpoint.encode() + b"\0"
        by_parameter = self._conditions.parameters or (traffic.sticky is not None and traffic.sticky.by == "parameter")
        self._reads = reader if by_parameter else None
        self._given = reader
        self._reader = self._reads
        self._sequences = False
        """A version keeps sequences: each of them stays with one version."""
        self._by_header = any(r.by == "header" for r in traffic.rules) or (traffic.sticky is not None and traffic.sticky.by == "header")
        self._addresses: dict[bytes, int] = {}
        self._token = object()
        """What is kept with heads and parameters is good as long as it is the same."""
        self._targets: list[Served | None] = []
        self.holder: Served | None = None
        """Who answers for the endpoint as a whole: the stable version, or its stand-in."""
        self._at = random()

    def settle(self, served: Mapping[str, Served]) -> None:
        """Take the versions that there are, by version key, and which of them are ready."""
        route = self.route
        there = {v: served.get(f"{route.endpoint}/{v}") for v in (route.stable, *self._names)}
        shares = route.shares
        ready = [s for s in there.values() if s is not None and s.ready]
        stable = there[route.stable]
        instead = stable if stable in ready else max(ready, key=lambda s: shares.get(s.version, 0), default=stable)
        self.holder = instead
        sequences = any(s is not None and s.sequences for s in there.values())
        if sequences != self._sequences:
            self._sequences, self._token = sequences, object()
        self._reader = self._given if sequences else self._reads
        self._targets = [s if (s := there[v]) in ready else instead or s for v in self._names]

    @property
    def candidates(self) -> list[Served]:
        """Return the versions of which one answers, whoever asks; none while no replica has described one."""
        return list({id(s): s for s in self._targets if s is not None}.values())

    def pick(self, asker: Asker, said: Said) -> Served | None:
        """Return the version that answers; None while no replica has described one."""
        head = asker.head
        if self._reader is None:
            kept = head.choice
            if kept is not None and kept[0] is self._token:
                where = kept[1]
            else:
                where = self._look(head, NONE)
                head.choice = (self._token, where)
        else:
            if type(said) is GrpcHead:
                parameters = self._reader.of_grpc(said)
            else:
                parameters = self._reader.of_rest(cast(Buffer, said), head.inference_header_length)
            kept = parameters.choice
            if kept is not None and kept[0] is self._token:
                where = kept[1]
            else:
                where = self._look(head, parameters)
                if not self._by_header:
                    parameters.choice = (self._token, where)
        if where == _IN_TURN:
            at = self._at + GOLDEN
            if at >= 1.0:
                at -= 1.0
            self._at = at
            where = self._in_turn[int(at * POINTS)]
        elif where == _BY_ADDRESS:
            where = self._of_address(asker.address)
        return self._targets[where]

    def _of_address(self, address: bytes) -> int:
        where = self._addresses.get(address)
        if where is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.clear()
            where = self._addresses[address] = self._keyed[point_of(self._salt, address)]
        return where

    def _look(self, head: Head, parameters: Parameters) -> int:
        """Return the place of the version that rules or the caller's key say; else what is to be done."""
        if self._of_rule:
            rule = self._conditions.find(head.headers, parameters.values)
            if rule >= 0:
                return self._of_rule[rule]
        sticky = self._sticky
        if sticky is None:
            return self._of_sequence(parameters)
        if sticky.by == "address":
            return _BY_ADDRESS
        value: object = head.headers.get(sticky.name.encode()) if sticky.by == "header" else parameters.values.get(sticky.name)
        key = key_bytes(value) if value is not None else b""
        return self._keyed[point_of(self._salt, key)] if key else self._of_sequence(parameters)

    def _of_sequence(self, parameters: Parameters) -> int:
        id = parameters.values.get("sequence_id") if self._sequences else None
        return self._keyed[point_of(self._salt, key_bytes(id))] if id else _IN_TURN

    def __repr__(self) -> str:
        return f"Chooser({self.route.endpoint}, {self.route.shares})"
