"""Gate: who may ask this gateway what. Looks at a head when it is new; later requests with the same head cost a look at the clock.

A request without an identity, or one that is not allowed its role, is refused before its body has come, and its head is not kept in the
cache. A head that passed carries a `Visitor`, which is asked again by each request: it notices that its time is over or that there are
other keys and rules, and then looks anew. benchmarks/micro/access.py measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import time
from typing import Any

from serving.access.door import Door
from serving.access.identity import Identity, Role
from serving.access.settings import AccessRules
from serving.errors import ServingError
from serving.gateway.client_limits import client_name
from serving.gateway.head import Action, Head
from serving.gateway.needs import Need, names_in_body, of_grpc, of_message, of_rest
from serving.inference import Buffer

MAX_VISITORS = 4096
MAX_ALLOWED = 1024
"""Models that a visitor has been found to be allowed; forgotten when there are more."""

Message = Callable[[Head, Buffer], Buffer]


def _nobody_asks(_: Identity) -> None:
    """Nobody wants to know who comes."""


class Gate:
    """Access of one gateway. door: None while access is off."""

    def __init__(self, met: Callable[[Identity], None] = _nobody_asks) -> None:
        """met: told whom the gate has found to ask."""
        self.door: Door | None = None
        self.met = met
        self._rules: AccessRules | None = None
        self._visitors: dict[tuple[bytes, str, bytes | None, bytes | None], tuple[Need, Visitor]] = {}
        """By method, path and credentials: of a client whose bodies have many sizes, each size has a head of its own."""

    def apply(self, rules: AccessRules | None) -> None:
        """Take other keys and rules. Heads that are known have to be forgotten."""
        if rules != self._rules:
            self._rules = rules
            self.door = None if rules is None else Door(rules)
            self._visitors.clear()

    def guard(self, head: Head, action: Action, message: Message | None = None) -> Action:
        """Return the action of a head with access looked after. message: reads a gRPC body; None for REST."""
        if self.door is None:
            return action
        headers = head.headers
        asked = (head.method, head.path, headers.get(b"authorization"), headers.get(b"x-api-key"))
        try:
            need, visitor = self._visitors.get(asked) or self._visitor(head, message is not None)
            if need.role is None:
                return action
            visitor.demand(need)
        except ServingError as error:
            return _refusing(error, action)
        self._visitors[asked] = need, visitor
        head.client = visitor.client
        if message is not None and names_in_body(head.path):
            head.visitor = visitor
            return action
        return Action(_run(visitor, need, action.run, message), action.answer, action.fail, action.streams)

    def _visitor(self, head: Head, grpc: bool) -> tuple[Need, Visitor]:
        if len(self._visitors) >= MAX_VISITORS:
            self._visitors.clear()
        need = of_grpc(head.path) if grpc else of_rest(head.method, head.path)
        return need, Visitor(self, head.headers, need.role or Role.viewer)


class Visitor:
    """Who sends the requests of one head, and for which models that is enough."""

    __slots__ = ("_allowed", "_door", "_gate", "_headers", "_identity", "_role", "_until", "client")

    def __init__(self, gate: Gate, headers: dict[bytes, bytes], role: Role) -> None:
        self._gate = gate
        self._headers = headers
        self._role = role
        self._door = gate.door
        self._allowed: set[str] = set()
        self._identity = Identity("", ())
        self._until = 0.0
        self.client = b""
        """The name by which limits know it."""

    def _look(self) -> None:
        """Find out who it is, anew. Raises Unauthenticated."""
        self._allowed.clear()
        self._until = 0.0
        door = self._gate.door
        if door is not None:
            self._identity = door.identify(self._headers, time())
            self._gate.met(self._identity)
        self._door = door
        self._until = self._identity.until or inf
        self.client = client_name(self._identity)

    def check(self, model: str) -> None:
        """Return when the model may be asked. Raises Unauthenticated, PermissionDenied."""
        if model in self._allowed and time() < self._until and self._door is self._gate.door:
            return
        self._renew()
        if self._door is not None:
            self._identity.demand(self._role, model)
        if len(self._allowed) >= MAX_ALLOWED:
            self._allowed.clear()
        self._allowed.add(model)

    def demand(self, need: Need) -> None:
        """The same for any need."""
        self._renew()
        if self._door is not None:
            _demand(self._identity, need)

    def _renew(self) -> None:
        if self._door is not self._gate.door or time() >= self._until:
            self._look()


def _demand(identity: Identity, need: Need) -> None:
    assert need.role is not None
    if need.field or need.writes:
        # the rest is said when the message is here
        identity.demand(Role.viewer if need.writes else need.role)
    elif need.whole:
        identity.demand_all(need.role)
    else:
        identity.demand(need.role, need.model)


def _run(visitor: Visitor, need: Need, run: Callable[[Any, Head, Any], None], message: Message | None) -> Callable[[Any, Head, Any], None]:
    model = need.model

    def of_path(connection: Any, head: Head, body: Any) -> None:
        visitor.check(model)
        run(connection, head, body)

    def of_body(connection: Any, head: Head, body: Any) -> None:
        assert message is not None
        visitor.demand(of_message(need, bytes(message(head, body))))
        run(connection, head, body)

    def of_engine(connection: Any, head: Head, body: Any) -> None:
        visitor.demand(need)
        run(connection, head, body)

    if need.field or need.writes:
        return of_body
    return of_engine if need.whole else of_path


def _refusing(error: ServingError, action: Action) -> Action:
    def refuse(connection: Any, head: Head, body: Any) -> None:
        # with a body still on its way the connection cannot go on
        connection.fail(error, close=len(body) != head.content_length)

    return Action(refuse, None, action.fail, streams=action.fail is not None, refuses=True)
