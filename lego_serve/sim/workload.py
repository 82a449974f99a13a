"""The requests of a simulation and where they come from: arrival processes and traces, re-timed."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it comes, its workflow, and the seconds in which it is to be served."""

    id: int
    at_s: float
    workflow: str
    slo_s: float
    scale: float = 1.0  # the length of its steps over the profile's
    tenant: str = "default"
    value: float = 1.0

    @property
    def deadline_s(self) -> float:
        """When it must have ended."""
        return self.at_s + self.slo_s


Arrivals = Sequence[float]


def poisson(rate: float, count: int, rng: random.Random) -> list[float]:
    """Draw arrivals with independent exponential gaps."""
    return gamma(rate, 1.0, count, rng)


def gamma(rate: float, cv: float, count: int, rng: random.Random) -> list[float]:
    """Draw arrivals with gamma gaps of this coefficient of variation; 1 is Poisson, 0 is a metronome."""
    now, times = 0.0, list[float]()
    shape = float("inf") if cv == 0 else 1.0 / (cv * cv)
    for _ in range(count):
        times.append(now)
        now += 1.0 / rate if cv == 0 else rng.gammavariate(shape, 1.0 / (rate * shape))
    return times


def on_off(rate: float, burst: float, on_s: float, off_s: float, count: int, rng: random.Random) -> list[float]:
    """Draw arrivals that come ``burst`` times as fast as on average while on, and slower while off."""
    share = on_s / (on_s + off_s)
    fast, slow = rate * burst, max(1e-9, rate * (1.0 - burst * share) / (1.0 - share))
    now, is_on, until, times = 0.0, True, on_s, list[float]()
    while len(times) < count:
        gap = rng.expovariate(fast if is_on else slow)
        if now + gap < until:
            now += gap
            times.append(now)
        else:
            now, is_on = until, not is_on
            until = now + (on_s if is_on else off_s)
    return times


def retimed(requests: Sequence[Request], rate: float) -> list[Request]:
    """Return the requests at another mean rate, with the shape of their arrivals."""
    span_s = requests[-1].at_s - requests[0].at_s
    current = (len(requests) - 1) / span_s if span_s > 0 else rate
    factor, start = current / rate, requests[0].at_s
    return [replace(each, at_s=(each.at_s - start) * factor) for each in requests]


def requests_of(
    arrivals: Arrivals, shares: Mapping[str, float], slo_s: Callable[[str], float], rng: random.Random
) -> list[Request]:
    """Draw the workflow of each arrival by its share."""
    names, weights = list(shares), list(shares.values())
    drawn = rng.choices(names, weights, k=len(arrivals))
    return [
        Request(number, at_s, name, slo_s(name))
        for number, (at_s, name) in enumerate(zip(arrivals, drawn, strict=True))
    ]
