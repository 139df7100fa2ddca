"""Ask: one request to one server, as bytes, whichever program sends it; and Measured: what came of sending it over and over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import httpx

Generator = Literal["bench", "wrk"]
"""bench: `serving bench`. wrk: wrk for REST and h2load for gRPC, to check it by."""


class WrongAnswer(Exception):
    """A server answered, but not what the model says."""


class LoadFailed(Exception):
    """A generator could not run, or too many requests failed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for prediction.

    body          for gRPC with the five bytes before the message
    check         says what is wrong with the body of an answer (for gRPC with its five bytes), None where it is right
    answer_bytes  of a right answer over gRPC: all that h2load can check
    """

    protocol: Literal["rest", "grpc"]
    model: str
    path: str
    body: bytes
    check: Callable[[bytes], str | None]
    headers: Mapping[str, str] = field(default_factory=dict)
    answer_bytes: int = 0

    def try_rest(self, address: str) -> None:
        """Send it once; raises WrongAnswer or httpx.HTTPError."""
        headers = {**self.headers, "accept-encoding": "identity"}
        answer = httpx.post(f"http://{address}{self.path}", content=self.body, headers=headers, timeout=10, trust_env=False)
        if answer.status_code != 200:
            raise WrongAnswer(f"{self.model} over REST: {answer.status_code} {answer.text[:300]}")
        if wrong := self.check(answer.content):
            raise WrongAnswer(f"{self.model} over REST: {wrong}")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    p50_ms, p99_ms          0 where the generator does not give them
    cpu_s_per_1000          CPU seconds of the server's whole tree for 1000 answers
    client_cpu_s_per_1000   the same of the generator, which shares the machine with the server
    errors                  requests without a good answer
    other_cores             what the rest of the machine did meanwhile, neither server nor generator: above 0.15 the run was disturbed
    stolen_cores            what the machine's host gave to others meanwhile (a virtual machine only): above 0.05 the run was disturbed
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    client_cpu_s_per_1000: float
    other_cores: float
    stolen_cores: float = 0.0
    errors: int = 0

    @property
    def disturbed(self) -> bool:
        return self.other_cores > 0.15 or self.stolen_cores > 0.05

    @property
    def disturbance(self) -> float:
        return self.other_cores + self.stolen_cores

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    def to_json(self) -> dict[str, float]:
        """Only what was measured: zeros are left out, but for errors and other_cores."""
        values: dict[str, Any] = {**asdict(self), "per_s": self.per_s}
        return {name: round(value, 4) for name, value in values.items() if value or name in ("other_cores", "errors")}
