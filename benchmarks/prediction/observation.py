"""What is predicted or measured of a suite, in the same words, and the digest of the requests behind it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadgen.summary import latency_figures
from loadgen.traffic import ImageRequest

SYSTEMS = ("baseline", "lego")


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """One system at one rate: the latencies of the images that were made, and the share of all requests in time."""

    mean_s: float
    p50_s: float
    p95_s: float
    attainment: float

    @classmethod
    def of(cls, latencies_s: Sequence[float], met: Sequence[bool]) -> "LoadFigures":
        """Return the figures of a load; 0 s where no image was made."""
        found = latency_figures(latencies_s) if latencies_s else dict.fromkeys(("mean_s", "p50_s", "p95_s"), 0.0)
        return cls(**found, attainment=sum(met) / len(met))


@dataclass(frozen=True, slots=True)
class Load:
    """A rate that is a share of the limit, and both systems there."""

    factor: float
    rate_rps: float
    baseline: LoadFigures
    lego: LoadFigures

    def of(self, system: str) -> LoadFigures:
        """Return a system's figures."""
        return self.baseline if system == "baseline" else self.lego


@dataclass(frozen=True, slots=True)
class Observation:
    """A suite: its limit, both systems at shares of it, the highest rate of each, and how ours compares.

    ``limit_rps``: of lego_serve's highest rate where the suite searches one, else of what the baseline makes when it is
    always full.  ``ratio``: of the highest rates, or of what is answered in time at the suite's own load where neither
    system has a highest rate.  ``plan``: the digest of all requests at the loads, with their times.
    """

    suite: str
    plan: str
    limit_rps: float
    loads: tuple[Load, ...]
    highest_rps: Mapping[str, float | None]
    ratio: float | None
    ratio_of: str

    def at(self, factor: float) -> Load:
        """Return the load of a factor.  Raises KeyError."""
        return {load.factor: load for load in self.loads}[factor]


def observation_of(found: Mapping[str, Any]) -> Observation:
    """Return an observation from its JSON."""
    loads = tuple(
        Load(
            float(each["factor"]),
            float(each["rate_rps"]),
            LoadFigures(**each["baseline"]),
            LoadFigures(**each["lego"]),
        )
        for each in found["loads"]
    )
    return Observation(**{**found, "loads": loads})


@dataclass(frozen=True, slots=True)
class Sent:
    """The requests of one load in one round, and when each was due."""

    round_number: int
    factor: float
    requests: Sequence[ImageRequest]
    due_s: Sequence[float]


def plan_digest(suite: str, sent: Sequence[Sent]) -> str:
    """Return a digest of what a suite sends at its loads: requests, add-ons and times to the microsecond."""
    lines = [
        [each.round_number, each.factor, round(due_s, 6), type(request).__name__, asdict(request)]
        for each in sent
        for request, due_s in zip(each.requests, each.due_s, strict=True)
    ]
    return hashlib.sha256(json.dumps([suite, lines], sort_keys=True).encode()).hexdigest()[:32]
