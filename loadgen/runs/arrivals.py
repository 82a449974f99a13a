"""Further arrivals of open loops; each offers its mean rate exactly, so that two runs bear the same load."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.traffic import OpenLoop, Poisson


@dataclass(frozen=True, slots=True)
class Constant:
    """Requests fall due at even distances."""

    requests: int
    rate_rps: float

    def times_s(self, rng: random.Random) -> list[float]:
        """Return when each request is due, the first one gap after the start."""
        return [(index + 1) / self.rate_rps for index in range(self.requests)]


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gaps are independent and gamma distributed: even where ``cv`` is near 0, Poisson at 1, in bursts above."""

    requests: int
    rate_rps: float
    cv: float

    def times_s(self, rng: random.Random) -> list[float]:
        """Return when each request is due, in seconds from the start, ascending."""
        shape = 1 / self.cv**2
        gaps = [rng.gammavariate(shape, 1.0) for _ in range(self.requests + 1)]
        scale = self.requests / self.rate_rps / sum(gaps)
        return [scale * time for time in itertools.accumulate(gaps[:-1])]


@dataclass(frozen=True, slots=True)
class OnOff:
    """Poisson arrivals in spans of ``on_s`` seconds with none for ``off_s`` between; the mean rate is over both."""

    requests: int
    rate_rps: float
    on_s: float
    off_s: float

    def times_s(self, rng: random.Random) -> list[float]:
        """Return when each request is due, in seconds from the start, ascending."""
        share = self.on_s / (self.on_s + self.off_s)
        gaps = [rng.expovariate(1.0) for _ in range(self.requests + 1)]
        scale = share * self.requests / self.rate_rps / sum(gaps)
        busy_s = [scale * time for time in itertools.accumulate(gaps[:-1])]
        return [at_s + self.off_s * (at_s // self.on_s) for at_s in busy_s]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Requests fall due as a trace says."""

    due_s: Sequence[float]

    def times_s(self, rng: random.Random) -> list[float]:
        """Return when each request is due, in seconds from the start."""
        return list(self.due_s)


CONSTANT, POISSON, GAMMA, ON_OFF = "constant", "poisson", "gamma", "onoff"
KINDS = (POISSON, GAMMA, ON_OFF, CONSTANT)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A kind of open-loop arrivals, of which any number at any mean rate can be had."""

    kind: str = POISSON
    cv: float = 2.0
    on_s: float = 10.0
    off_s: float = 10.0

    def at(self, requests: int, rate_rps: float) -> OpenLoop:
        """Return the arrivals of so many requests.  Raises ValueError for an unknown kind."""
        match self.kind:
            case "poisson":
                return Poisson(requests, rate_rps)
            case "gamma":
                return Gamma(requests, rate_rps, self.cv)
            case "onoff":
                return OnOff(requests, rate_rps, self.on_s, self.off_s)
            case "constant":
                return Constant(requests, rate_rps)
        raise ValueError(f"no arrivals {self.kind!r}; there is {', '.join(KINDS)}")
