"""Arrivals: when the requests of an open loop are meant to start. Pure: rates and a seed in, times out.

Every shape but a recorded one is the same arithmetic: arrivals at rate 1 (evenly, Poisson or gamma spaced) are drawn, and their times
bent by the inverse of the integral of the rate. So a ramp of Poisson arrivals is exactly a Poisson process of that rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidArgument

CHUNK = 8192

Times = NDArray[np.int64]
"""Nanoseconds from the start of the load, ascending."""

Spacing = Literal["even", "poisson"]


class Arrivals(Protocol):
    def chunks(self, seed: int) -> Iterator[Times]:
        """Give all arrivals, piece by piece; the same seed gives the same times. Most shapes have no end."""
        ...

    @property
    def mean_rate(self) -> float:
        """Requests per second in the long run."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """One arrival every 1/rate seconds, from 0 on."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate("rate", self.rate)

    @property
    def mean_rate(self) -> float:
        return self.rate

    def chunks(self, seed: int) -> Iterator[Times]:
        for counts in _even():
            yield _ns(counts / self.rate)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals: exponential gaps of mean 1/rate."""

    rate: float

    def __post_init__(self) -> None:
        _check_rate("rate", self.rate)

    @property
    def mean_rate(self) -> float:
        return self.rate

    def chunks(self, seed: int) -> Iterator[Times]:
        for counts in _gamma(1.0, seed):
            yield _ns(counts / self.rate)


@dataclass(frozen=True, slots=True)
class Bursty:
    """Gamma gaps of mean 1/rate. `burstiness` is their shape: 1 is Poisson, 0.1 comes in clusters, above 1 it is evener than Poisson."""

    rate: float
    burstiness: float = 0.25

    def __post_init__(self) -> None:
        _check_rate("rate", self.rate)
        _check_rate("burstiness", self.burstiness)

    @property
    def mean_rate(self) -> float:
        return self.rate

    def chunks(self, seed: int) -> Iterator[Times]:
        for counts in _gamma(self.burstiness, seed):
            yield _ns(counts / self.rate)


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `first` to `last` requests a second, evenly within `over_s`; `last` from then on."""

    first: float
    last: float
    over_s: float
    spacing: Spacing = "poisson"

    def __post_init__(self) -> None:
        _check_rate("last", self.last)
        _check_rate("over_s", self.over_s)
        if not 0 <= self.first < math.inf:
            raise InvalidArgument(f"first {self.first}, expected at least 0 requests a second")

    @property
    def mean_rate(self) -> float:
        return self.last

    def chunks(self, seed: int) -> Iterator[Times]:
        # The integral of the rate is first·t + slope·t²/2 up to over_s. Its inverse is written with the root below the line: no
        # difference of nearly equal numbers where the slope is small.
        slope = (self.last - self.first) / self.over_s
        within = (self.first + self.last) / 2 * self.over_s
        for counts in _unit(self.spacing, seed):
            inside = np.minimum(counts, within)
            root = np.sqrt(np.maximum(self.first**2 + 2 * slope * inside, 0))
            below = self.first + root
            bent = np.divide(2 * inside, below, out=np.zeros_like(inside), where=below > 0)
            yield _ns(np.where(counts <= within, bent, self.over_s + (counts - within) / self.last))


@dataclass(frozen=True, slots=True)
class Step:
    """Rates one after another, each for its seconds. Then the last one holds, or with `repeat` all begin again. A rate may be 0."""

    steps: tuple[tuple[float, float], ...]
    """(requests a second, seconds)"""
    repeat: bool = False
    spacing: Spacing = "poisson"

    def __post_init__(self) -> None:
        for rate, seconds in self.steps:
            if not 0 <= rate < math.inf or not 0 < seconds < math.inf:
                raise InvalidArgument(f"step ({rate}, {seconds}), expected at least 0 requests a second for more than 0 seconds")
        if not any(rate for rate, _ in self.steps):
            raise InvalidArgument("steps: expected at least one with a rate above 0")

    @property
    def mean_rate(self) -> float:
        if not self.repeat:
            return self.steps[-1][0]
        return sum(rate * seconds for rate, seconds in self.steps) / sum(seconds for _, seconds in self.steps)

    def chunks(self, seed: int) -> Iterator[Times]:
        rates = np.array([rate for rate, _ in self.steps])
        begins = np.concatenate(([0.0], np.cumsum([seconds for _, seconds in self.steps])))
        before = np.concatenate(([0.0], np.cumsum(rates * np.diff(begins))))
        for counts in _unit(self.spacing, seed):
            rounds = np.floor(counts / before[-1]) if self.repeat else np.zeros_like(counts)
            inside = counts - rounds * before[-1]
            # side="right" steps over rates of 0: they have the same count at both their ends.
            place = np.minimum(np.searchsorted(before, inside, side="right") - 1, len(rates) - 1)
            if not self.repeat and rates[-1] == 0:
                inside = inside[counts < before[-1]]
                place = place[: inside.size]
                rounds = rounds[: inside.size]
            with np.errstate(divide="ignore", invalid="ignore"):
                bent = begins[place] + (inside - before[place]) / rates[place]
            yield _ns(rounds * begins[-1] + bent)
            if inside.size < counts.size:
                return


@dataclass(frozen=True, slots=True)
class Recorded:
    """Times taken from a log, in seconds from its start; `speed` 2 plays them twice as fast. It ends with the last one."""

    times_s: tuple[float, ...]
    speed: float = 1.0

    def __post_init__(self) -> None:
        _check_rate("speed", self.speed)
        times = np.asarray(self.times_s, np.float64)
        if not times.size or not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
            raise InvalidArgument("recorded arrivals: expected at least one time, all from 0 on and ascending")

    @property
    def mean_rate(self) -> float:
        return self.speed * len(self.times_s) / max(self.times_s[-1], 1e-9)

    def chunks(self, seed: int) -> Iterator[Times]:
        times = _ns(np.asarray(self.times_s, np.float64) / self.speed)
        for begin in range(0, times.size, CHUNK):
            yield times[begin : begin + CHUNK]


def _check_rate(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidArgument(f"{name} {value}, expected more than 0")


def _unit(spacing: Spacing, seed: int) -> Iterator[NDArray[np.float64]]:
    return _even() if spacing == "even" else _gamma(1.0, seed)


def _even() -> Iterator[NDArray[np.float64]]:
    begin = 0
    while True:
        yield np.arange(begin, begin + CHUNK, dtype=np.float64)
        begin += CHUNK


def _gamma(shape: float, seed: int) -> Iterator[NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    end = 0.0
    while True:
        counts = end + np.cumsum(random.gamma(shape, 1 / shape, CHUNK))
        end = float(counts[-1])
        yield counts


def _ns(seconds: NDArray[np.float64]) -> Times:
    return np.rint(seconds * 1e9).astype(np.int64)
