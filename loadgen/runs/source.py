"""Where the requests of a load come from: a model that is asked for new prompts, or a trace."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from loadgen.runs.arrivals import Pattern, Schedule
from loadgen.traces.arrival import Arrival
from loadgen.traces.payloads import Asking, to_records
from loadgen.traces.record import Record
from loadgen.traffic import OpenLoop

TAKES_OF_TRIAL = 1000  # how often a trial may go round a trace


class Source(Protocol):
    """The requests and arrivals of a load.

    A repeat's mix and pattern differ from another's, and are alike at all rates; each ``take`` has other prompts and
    seeds, so that no cache of the server's knows the requests from before.
    """

    def load(self, count: int, rate_rps: float, repeat: int, take: int = 0) -> tuple[list[Record], OpenLoop]:
        """Return ``count`` requests and when they are due at a mean rate."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Models, sizes and add-ons in equal shares; every prompt and seed is new."""

    models: Sequence[str]
    pattern: Pattern
    seed: int = 0
    sizes: Sequence[str] = ("1024x1024",)
    steps: int | None = None
    adapters: Sequence[str] = ()
    controlnets: Sequence[str] = ()

    def load(self, count: int, rate_rps: float, repeat: int, take: int = 0) -> tuple[list[Record], OpenLoop]:
        """Return ``count`` requests and when they are due at a mean rate."""
        requests = [record.take(take) for record in self.requests(count, repeat)]
        return requests, self.pattern.at(count, rate_rps)

    def requests(self, count: int, repeat: int) -> list[Record]:
        """Return the first ``count`` requests of a repeat."""
        rng = random.Random(f"{self.seed}/{repeat}/requests")
        arrivals = [
            Arrival(
                0.0,
                rng.choice(list(self.models)),
                adapters=_one(self.adapters, rng),
                controlnets=_one(self.controlnets, rng),
            )
            for _ in range(count)
        ]
        asking = Asking(steps=self.steps)
        records = to_records(arrivals, asking, random.Random(f"{self.seed}/{repeat}").randrange(2**30))
        return [replace(record, payload={**record.payload, "size": rng.choice(list(self.sizes))}) for record in records]


def _one(names: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    return (rng.choice(list(names)),) if names else ()


@dataclass(frozen=True, slots=True)
class TraceSource:
    """A trace, sped up or slowed down to a rate; each repeat begins at another place and goes round."""

    records: Sequence[Record]
    repeats: int = 1

    def load(self, count: int, rate_rps: float, repeat: int, take: int = 0) -> tuple[list[Record], OpenLoop]:
        """Return ``count`` requests and when they are due at a mean rate.  Raises ValueError for a trace of no span."""
        size = len(self.records)
        start = repeat * size // max(self.repeats, 1) % size
        places = [(start + index) % size for index in range(count)]
        takes = [take * TAKES_OF_TRIAL + (start + index) // size for index in range(count)]
        gaps_s = [self._gap_s(place) for place in places[1:]]
        if sum(gaps_s) <= 0:
            raise ValueError(f"the {count} requests of the trace are due at once, so they have no rate to change")
        scale = (count - 1) / rate_rps / sum(gaps_s)
        due_s = [scale * at_s for at_s in itertools.accumulate(gaps_s, initial=0.0)]
        requests = [self.records[place].take(number) for place, number in zip(places, takes, strict=True)]
        return requests, Schedule(due_s)

    def _gap_s(self, place: int) -> float:
        """Return the gap before a request; the trace begins anew after its mean gap."""
        if place:
            return self.records[place].at_s - self.records[place - 1].at_s
        return (self.records[-1].at_s - self.records[0].at_s) / max(len(self.records) - 1, 1)
