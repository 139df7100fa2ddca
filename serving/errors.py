"""The error tree. Codes are neutral: no HTTP and no gRPC numbers in here (`protocol/status.py` has those).

    ServingError(code, message)
    ├── InvalidArgument        the caller sent something that can never work
    │   ├── DecodeError        the bytes are not what the protocol says
    │   ├── SignatureMismatch  well formed, but not what the model takes
    │   ├── SequenceUnknown    a request that does not start its sequence, which is not live
    │   └── SpecError          a YAML file that cannot be accepted
    ├── NotFound               no such model, version or region
    ├── AlreadyExists
    ├── Unauthenticated        nobody knows who is asking
    ├── PermissionDenied       known, and not allowed to do this
    ├── TooLarge               body or message over a configured limit
    ├── TooManyRequests        a limit of this one client
    ├── QueueFull              the model has more work than its bound allows
    ├── DeadlineExceeded       the caller's own deadline is over
    ├── QueueTimeout           the request's time-out ran out in the queue
    ├── Cancelled              the caller has gone
    ├── Unsupported            known, but not by this server or model
    ├── Unavailable            not now: loading, draining, no replica
    │   ├── SequencesFull      no room for another live sequence
    │   └── ReplicaLost        the replica died with the request in it
    └── Internal
        └── ModelFailed        the model raised, or answered against its signature

Between processes an error travels as (code, message).
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Neutral outcome of a call. The numbers travel in frames: append, never renumber."""

    OK = 0
    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    ALREADY_EXISTS = 3
    TOO_LARGE = 4
    TOO_MANY_REQUESTS = 5
    QUEUE_FULL = 6
    DEADLINE_EXCEEDED = 7
    QUEUE_TIMEOUT = 8
    CANCELLED = 9
    UNSUPPORTED = 10
    UNAVAILABLE = 11
    REPLICA_LOST = 12
    INTERNAL = 13
    MODEL_FAILED = 14
    UNAUTHENTICATED = 15
    PERMISSION_DENIED = 16
    SEQUENCE_UNKNOWN = 17
    SEQUENCES_FULL = 18


class ServingError(Exception):
    """Base of all errors that a caller may see. `retry_after_s` > 0 says when a retry makes sense."""

    code: Code = Code.INTERNAL

    def __init__(self, message: str, *, code: Code | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.name}: {self.message})"


class InvalidArgument(ServingError):
    code = Code.INVALID_ARGUMENT


class DecodeError(InvalidArgument):
    pass


class SignatureMismatch(InvalidArgument):
    pass


class SpecError(InvalidArgument):
    pass


class SequenceUnknown(InvalidArgument):
    code = Code.SEQUENCE_UNKNOWN


class NotFound(ServingError):
    code = Code.NOT_FOUND


class AlreadyExists(ServingError):
    code = Code.ALREADY_EXISTS


class Unauthenticated(ServingError):
    code = Code.UNAUTHENTICATED


class PermissionDenied(ServingError):
    code = Code.PERMISSION_DENIED


class TooLarge(ServingError):
    code = Code.TOO_LARGE


class TooManyRequests(ServingError):
    code = Code.TOO_MANY_REQUESTS


class QueueFull(ServingError):
    code = Code.QUEUE_FULL


class DeadlineExceeded(ServingError):
    code = Code.DEADLINE_EXCEEDED


class QueueTimeout(ServingError):
    code = Code.QUEUE_TIMEOUT


class Cancelled(ServingError):
    code = Code.CANCELLED


class Unsupported(ServingError):
    code = Code.UNSUPPORTED


class Unavailable(ServingError):
    code = Code.UNAVAILABLE


class SequencesFull(Unavailable):
    code = Code.SEQUENCES_FULL


class ReplicaLost(Unavailable):
    code = Code.REPLICA_LOST


class Internal(ServingError):
    code = Code.INTERNAL


class ModelFailed(Internal):
    code = Code.MODEL_FAILED


_BY_CODE: dict[int, type[ServingError]] = {
    int(cls.code): cls
    for cls in (
        InvalidArgument, NotFound, AlreadyExists, Unauthenticated, PermissionDenied, TooLarge, TooManyRequests, QueueFull, DeadlineExceeded,
        QueueTimeout, Cancelled, Unsupported, Unavailable, ReplicaLost, Internal, ModelFailed,
        SequenceUnknown, SequencesFull,
    )
}  # fmt: skip


def from_code(code: int, message: str, retry_after_s: float = 0.0) -> ServingError:
    """Rebuild the error that another process sent as (code, message); unknown codes become Internal."""
    return _BY_CODE.get(code, Internal)(message, retry_after_s=retry_after_s)
