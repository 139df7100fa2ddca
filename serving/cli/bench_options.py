"""The options of `serving bench run` as a scenario; a scenario file may stand below them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serving.bench.arrivals import Arrivals, Bursty, Constant, Poisson, Ramp, Recorded, Step
from serving.bench.dial import Tls
from serving.bench.inputs import parse_shape
from serving.bench.load import PLAIN_SETTINGS, Closed, Load, Open
from serving.bench.scenario import Asked, Scenario
from serving.bench.scenario_file import read_scenario, recorded_times
from serving.cli import credentials
from serving.errors import InvalidArgument

WARM_UP_S = 1.0
SCENARIO_NAMES = ("url", "protocol", "driver", "streaming", "slo_ms", "repetitions", "name", "pid")
ASKED_NAMES = ("batch_size", "encoding", "samples", "version", "input", "expect")


@dataclass(frozen=True, slots=True)
class Options:
    """What was given; None where nothing was."""

    given: dict[str, Any]

    def scenario(self) -> Scenario:
        """Return the scenario. Raises InvalidArgument for options that contradict each other, InvalidSpec for a scenario file."""
        given = self.given
        if given["scenario"]:
            base = read_scenario(given["scenario"])
            if given["model"]:
                raise InvalidArgument("the scenario says which models are measured; leave --model out")
        else:
            if not given["model"]:
                raise InvalidArgument("no model is named: give --model NAME (several times for a mix), or --scenario FILE")
            base = Scenario("", tuple(_asked(text) for text in given["model"]), Load(Closed(1), warm_up_s=WARM_UP_S))
        changes = {name: given[name] for name in SCENARIO_NAMES if given[name]}
        requests = self._requests(base.requests)
        load = self._load(base.load)
        headers = tuple(_header(text) for text in given["header"] or ())
        return replace(base, **changes, requests=requests, load=load, tls=tls(given), headers=with_key(headers, given["api_key"] or ""))

    def _requests(self, base: Sequence[Asked]) -> tuple[Asked, ...]:
        given = self.given
        changes = {name: given[name] for name in ASKED_NAMES if given[name]}
        if given["output"]:
            changes["outputs"] = tuple(given["output"])
        if len(base) > 1 and (given["input"] or given["expect"] or given["output"]):
            raise InvalidArgument("--input, --expect and --output are for one model; for several give --scenario FILE")
        if given["expect"] and not (given["input"] or base[0].input):
            raise InvalidArgument("--expect holds the outputs for the rows of --input; give both")
        shapes = dict(parse_shape(text) for text in given["shape"] or ())
        return tuple(replace(asked, **changes, shapes={**asked.shapes, **shapes}) for asked in base)

    def _load(self, base: Load) -> Load:
        given = self.given
        changes = {name: given[name] for name in PLAIN_SETTINGS if given[name] is not None}
        if given["max_requests"] and given["duration_s"] is None:
            changes["duration_s"] = 0.0
        shape = self._shape(base)
        return replace(base, shape=shape, **changes)

    def _shape(self, base: Load) -> Closed | Open:
        given = self.given
        arrivals = self._arrivals()
        if arrivals is not None and given["concurrency"]:
            raise InvalidArgument("--concurrency is a closed loop and --rate an open one; give one of them")
        if arrivals is not None:
            return Open(arrivals, given["max_in_flight"]) if given["max_in_flight"] else Open(arrivals)
        if given["concurrency"]:
            return Closed(given["concurrency"])
        if given["max_in_flight"] and isinstance(base.shape, Open):
            return replace(base.shape, max_in_flight=given["max_in_flight"])
        return base.shape

    def _arrivals(self) -> Arrivals | None:
        given = self.given
        kind, rate = given["arrivals"], given["rate"]
        if kind == "recorded" or (given["recorded"] and kind is None):
            if not given["recorded"]:
                raise InvalidArgument("--arrivals recorded needs --recorded FILE with a time in seconds on each line")
            return Recorded(recorded_times(given["recorded"]), given["speed"])
        if kind == "step" or (given["steps"] and kind is None):
            if not given["steps"]:
                raise InvalidArgument("--arrivals step needs --steps RATE:SECONDS,RATE:SECONDS,…")
            return Step(_steps(given["steps"]), given["repeat_steps"])
        if rate is None:
            if kind is not None:
                raise InvalidArgument(f"--arrivals {kind} needs --rate, requests a second")
            return None
        match kind:
            case "constant":
                return Constant(rate)
            case "bursty":
                return Bursty(rate, given["burstiness"])
            case "ramp":
                if given["ramp_over"] is None:
                    raise InvalidArgument("--arrivals ramp goes from --ramp-from to --rate within --ramp-over seconds; give that")
                return Ramp(given["ramp_from"], rate, given["ramp_over"])
            case _:
                return Poisson(rate)


def tls(given: Mapping[str, Any]) -> Tls:
    """Return what to trust and to show: the options, else what the whole command line has (SERVING_CA and the like)."""
    names = (("ca", "ca"), ("cert", "client_cert"), ("key", "client_key"))
    ca, certificate, key = (str(given.get(f"tls_{name}") or credentials.given(whole)) for name, whole in names)
    return Tls(ca, certificate, key, "", not given.get("tls_insecure"))


def with_key(headers: tuple[tuple[str, str], ...], key: str = "") -> tuple[tuple[str, str], ...]:
    """Return the headers with the API key, the given one or the whole command line's; as they are where they say who asks."""
    key = key or credentials.given("api_key")
    if not key or any(name in ("authorization", "x-api-key") for name, _ in headers):
        return headers
    return (*headers, ("authorization", f"Bearer {key}"))


def parse_numbers(text: str, option: str) -> list[float]:
    """Return the numbers of `1,2,4,8`. Raises InvalidArgument."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise InvalidArgument(f"{option} {text!r}: expected numbers above 0, such as 1,2,4,8")
    return numbers


def _asked(text: str) -> Asked:
    """Return the model of `NAME` or `NAME:WEIGHT`."""
    found = re.fullmatch(r"(.+):([0-9.]+)", text)
    if found is None:
        return Asked(text)
    try:
        weight = float(found[2])
    except ValueError:
        weight = 0.0
    if weight <= 0:
        raise InvalidArgument(f"--model {text!r}: expected NAME or NAME:WEIGHT with a weight above 0")
    return Asked(found[1], weight=weight)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise InvalidArgument(f"--header {text!r}: expected 'name: value'")
    return name.strip().lower(), value.strip()


def _steps(text: str) -> tuple[tuple[float, float], ...]:
    steps = []
    for part in text.split(","):
        rate, _, seconds = part.partition(":")
        try:
            steps.append((float(rate), float(seconds)))
        except ValueError:
            raise InvalidArgument(f"--steps {text!r}: expected RATE:SECONDS,RATE:SECONDS, such as 100:10,500:10") from None
    return tuple(steps)
