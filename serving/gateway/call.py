"""Call, Served, and the ports between them: one prediction on its way through a gateway.

A `Call` is made by `Calls.submit`, waits in a `Channel` for its answer, and ends exactly once: its owner gets
`answer(call, response)`, or the owner took it back with `cancel()` and hears nothing more. All of this lives on the
one loop of the gateway; nothing here is safe from other threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from serving.gateway.client_limits import Client
from serving.gateway.load import Load, new_loads
from serving.gateway.tally import Cell, VersionTally
from serving.inference import InferRequest, InferResponse
from serving.protocol.generate import GenerateCodec
from serving.protocol.grpc import GrpcCodec
from serving.protocol.rest import RestCodec
from serving.protocol.sequence import SequenceGenerateCodec, SequenceGrpcCodec, SequenceRestCodec
from serving.tensor import Signature


class Owner(Protocol):
    """The protocol side of a call: a connection or one of its streams."""

    def answer(self, call: Call, response: InferResponse) -> None:
        """Take the answer. Called once, never inside `submit`. Must not raise; what it raises is only logged."""


class StreamOwner(Owner, Protocol):
    """The protocol side of a call to a decoupled model: `part` any number of times, then `answer` once, an error or without layout."""

    def part(self, call: StreamCall, response: InferResponse) -> None:
        """Take one of several answers, and say `call.took` when it has left."""


class Home(Protocol):
    """What a call and its channel tell of it, apart from its answer."""

    def cancelled(self, call: Call) -> None:
        """The owner has gone."""

    def part(self, call: StreamCall, response: InferResponse, now: float) -> None:
        """One of several answers has come."""


NO_DETAILS: Mapping[str, Any] = MappingProxyType({})


class Way(Protocol):
    """What stands between the service and the replicas for a call that cannot go to any of them (`sequences.py`)."""

    def answered(self, call: Call, response: InferResponse) -> InferResponse | None:
        """Take an answer before the owner does. Returns what the owner is to get; None where the call is not over."""

    def left(self, call: Call) -> None:
        """The owner has gone; the call has been taken back."""


class Description(NamedTuple):
    """What a replica says about one version that it holds.

    details   how it is run, for those who ask: `replica/details.py`
    """

    model: str
    version: str
    signature: Signature
    platform: str
    details: Mapping[str, Any] = NO_DETAILS

    @property
    def key(self) -> str:
        return f"{self.model}/{self.version}"


class Channel(Protocol):
    """The way to one replica.

    inflight   calls sent and not answered, of all versions; `PeerPool` picks by it
    paused     the socket does not take what was written so far: others are picked first
    versions   what is behind it, by key; empty until the replica has said HELLO
    replica    its name
    since      when it became usable, time.monotonic()
    usable     takes new calls: HELLO has been said, no DRAIN, not lost
    """

    inflight: int
    paused: bool
    usable: bool
    versions: dict[str, Description]
    replica: str
    since: float

    def send(self, call: Call) -> None:
        """Take the call. It leaves at the end of this turn of the loop, with the others of the turn."""

    def cancel(self, call: Call) -> None:
        """Forget the call: its answer, should one come, is dropped."""

    def took(self, call: Call, answers: int) -> None:
        """Tell the replica that so many more of the call's answers have left."""

    def forget(self, key: str, sequence: bytes, done: Callable[[], None]) -> None:
        """Have the replica drop a sequence of the version `key`; `done` is called when it has, or has gone."""

    def room(self) -> bool:
        """Say whether another call may be queued behind what the socket has not taken yet."""

    def calls(self) -> list[Call]:
        """Return all calls in flight."""

    def tick(self) -> None:
        """Look whether the replica is alive. Called once a ping interval."""

    def retire(self) -> None:
        """Take nothing new, and close when the last call has been answered."""

    def close(self, reason: str) -> None:
        """Give up the connection now. Calls in flight are handed back."""


class ChannelOwner(Protocol):
    """What a channel tells about itself. Never inside `send`."""

    def connected(self, channel: Channel) -> None:
        """The connection is there; the replica has not said HELLO."""

    def ready(self, channel: Channel) -> None:
        """The replica has said HELLO, or has said it again with other versions."""

    def draining(self, channel: Channel) -> None:
        """The replica takes no new calls."""

    def lost(self, channel: Channel, sent: list[Call], unsent: list[Call], reason: str) -> None:
        """The connection is gone. `sent` may have run, `unsent` never left this process."""


Deliver = Callable[["Call", InferResponse, float], None]
"""deliver(call, response, now): takes one answer. Called per answer, so it is a function and not a port."""


class Pool(Protocol):
    """The channels of one version."""

    def pick(self) -> Channel | None: ...

    def ready(self) -> bool: ...

    def __len__(self) -> int: ...


class Copier(Protocol):
    """Makes copies of requests for shadows (`mirror.py`)."""

    def take(self, served: Served, request: InferRequest) -> None:
        """A request is on its way to `served`."""


class Served:
    """One version that clients can call, as its replicas describe it. Replaced when the description changes.

    key            "model/version", as in frames and `set_peers`
    at_most_once   a call is never sent twice (from the route)
    decoupled      a call has any number of answers; `call` is the kind of it
    sequences      its model keeps sequences
    loads          what is under way, by urgency
    tally          counts; outlives this object
    mirror         copies its requests to shadows, where its route has some
    """

    __slots__ = (
        "at_most_once",
        "call",
        "decoupled",
        "details",
        "generate",
        "grpc",
        "key",
        "loads",
        "mirror",
        "model",
        "platform",
        "pool",
        "rest",
        "sequences",
        "signature",
        "tally",
        "version",
    )

    def __init__(self, description: Description, pool: Pool, tally: VersionTally, max_json_bytes: int) -> None:
        model, version, signature, platform, self.details = description
        self.model = model
        self.version = version
        self.key = description.key
        self.signature = signature
        self.platform = platform
        self.pool = pool
        self.tally = tally
        self.sequences = sequences = bool(self.details.get("sequence"))
        rest = SequenceRestCodec if sequences else RestCodec
        grpc = SequenceGrpcCodec if sequences else GrpcCodec
        self.rest: RestCodec = rest(model, version, signature, max_json_bytes=max_json_bytes)
        self.grpc: GrpcCodec = grpc(model, version, signature)
        generate = SequenceGenerateCodec if sequences else GenerateCodec
        self.generate: GenerateCodec = generate(model, version, signature, max_json_bytes=max_json_bytes)
        self.at_most_once = False
        self.decoupled = says_decoupled(description)
        self.call: type[Call] = StreamCall if self.decoupled else Call
        self.loads = new_loads()
        self.mirror: Copier | None = None

    @property
    def ready(self) -> bool:
        """Whether a replica takes requests for it now."""
        return self.pool.ready()

    def __repr__(self) -> str:
        return f"Served({self.key}, {'ready' if self.ready else 'not ready'})"


def says_decoupled(description: Description) -> bool:
    """Say whether requests to the version may have any number of answers."""
    return description.details.get("decoupled") is True


class Call:
    """One request on its way. The first group is for the owner; the second belongs to service and channel.

    plan       the owner's own
    started    time.monotonic() of `submit`
    open       false once it has been answered or cancelled
    channel    where it is now; None while it waits for a peer, and when it has ended
    key        its number on that channel; 0 while it has not left
    attempt    0, or 1 when it was sent again
    bucket     the set of `Deadlines` that holds it
    load       where it is counted; `ahead` of it were there when it came
    client     whose limits it counts against, None where there are none
    lane       the sequence that it belongs to, None where it is no request of a sequence
    """

    __slots__ = (
        "ahead",
        "attempt",
        "bucket",
        "cell",
        "channel",
        "client",
        "home",
        "key",
        "lane",
        "load",
        "open",
        "owner",
        "payload_bytes",
        "plan",
        "request",
        "served",
        "started",
    )  # fmt: skip

    bucket: set[Call] | None
    parts = 0

    def __init__(
        self,
        served: Served,
        request: InferRequest,
        owner: Owner,
        plan: Any,
        cell: Cell,
        payload_bytes: int,
        started: float,
        home: Home,
        load: Load,
        channel: Channel | None = None,
        client: Client | None = None,
    ) -> None:
        self.served = served
        self.request = request
        self.owner = owner
        self.plan = plan
        self.started = started
        self.cell = cell
        self.payload_bytes = payload_bytes
        self.home = home
        self.open = True
        self.channel = channel
        self.key = 0
        self.attempt = 0
        self.bucket = None
        self.load = load
        self.ahead = load.requests - 1  # it is counted already
        self.client = client
        self.lane: Way | None = None

    def cancel(self) -> None:
        """Take the call back: after this its owner is never called. Does nothing when it has ended already."""
        if self.open:
            self.home.cancelled(self)

    @property
    def heard(self) -> float:
        """When something was last heard of it."""
        return self.started

    def __repr__(self) -> str:
        state = "ended" if not self.open else "waiting" if self.channel is None else "in flight"
        return f"Call({self.served.key}, {state}, attempt {self.attempt})"


class StreamCall(Call):
    """A call to a decoupled model: it may have several answers. Its owner is a `StreamOwner`.

    parts   answers so far; after the first one the call is never sent again
    """

    __slots__ = ("_heard", "parts")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.parts = 0
        self._heard = self.started

    @property
    def heard(self) -> float:
        return self._heard

    def note(self, now: float) -> None:
        """An answer has come."""
        self.parts += 1
        self._heard = now

    def took(self, answers: int) -> None:
        """So many answers have left: the replica may send as many more."""
        if self.channel is not None:
            self.channel.took(self, answers)
