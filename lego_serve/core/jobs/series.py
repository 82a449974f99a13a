"""What became of requests over time, in bins of two seconds for five minutes and of ten for an hour.

Bins are aligned on the wall clock, so that those of several gateways add up; times are given by the caller.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

FINE_S, FINE_KEPT = 2, 150
COARSE_S, COARSE_KEPT = 10, 360
DURATIONS_KEPT = 400  # of a bin: enough for its percentiles


@dataclass(slots=True)
class Bin:
    """What happened in one span of time: counts by name, and the seconds of the requests that ended well."""

    index: int  # of the bin: its start, in units of its length
    counts: dict[str, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def add(self, counts: Mapping[str, float], seconds: Iterable[float] = ()) -> None:
        """Add to it."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.seconds += [round(each, 4) for each in seconds][: DURATIONS_KEPT - len(self.seconds)]

    def to_json(self) -> list[Any]:
        """Return it as JSON takes it."""
        return [self.index, self.counts, self.seconds]


class Series:
    """The bins of one gateway, or of several together."""

    def __init__(self) -> None:
        self._bins: dict[int, deque[Bin]] = {FINE_S: deque(maxlen=FINE_KEPT), COARSE_S: deque(maxlen=COARSE_KEPT)}

    def add(self, at: float, counts: Mapping[str, float], seconds: Sequence[float] = ()) -> None:
        """Add what happened at a time."""
        for length in self._bins:
            self._bin(length, int(at // length)).add(counts, seconds)

    def merge(self, length: int, bins: Iterable[Sequence[Any]]) -> None:
        """Add the bins of another gateway, as ``to_json`` wrote them."""
        for index, counts, seconds in bins:
            self._bin(length, int(index)).add(counts, seconds)

    def last(self, length: int, count: int, now: float) -> list[Bin]:
        """Return the last bins of a length, the one under way left out; empty ones where nothing happened."""
        end = int(now // length)
        known = {each.index: each for each in self._bins[length]}
        return [known.get(index) or Bin(index) for index in range(end - count, end)]

    def to_json(self, length: int, now: float, window_s: float) -> list[list[Any]]:
        """Return the bins of a window that hold anything."""
        first = int((now - window_s) // length)
        return [each.to_json() for each in self._bins[length] if each.index >= first]

    def _bin(self, length: int, index: int) -> Bin:
        bins = self._bins[length]
        for each in reversed(bins):
            if each.index == index:
                return each
            if each.index < index:
                break
        else:
            if bins and len(bins) == bins.maxlen:
                return Bin(index)  # older than what is kept: it goes nowhere
        new = Bin(index)
        place = next((at + 1 for at in range(len(bins) - 1, -1, -1) if bins[at].index < index), 0)
        if len(bins) == bins.maxlen:
            bins.popleft()
            place -= 1
        bins.insert(max(place, 0), new)
        return new


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest of some values that a share of them do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


class SoloTimes:
    """Learns how long a request takes by itself, by its workflow and its work, and what may be expected of it.

    The target is five times what the quickest tenth of like requests took: others share the steps, and few wait longer.
    """

    FACTOR, KEPT, LEAST = 5.0, 200, 5

    def __init__(self) -> None:
        self._paces: dict[str, deque[float]] = {}

    def learn(self, workflow: str, work: float, seconds: float) -> None:
        """Note how long one took."""
        if work > 0:
            self._paces.setdefault(workflow, deque(maxlen=self.KEPT)).append(seconds / work)

    def target_s(self, workflow: str, work: float) -> float | None:
        """Return within which time such a request should be answered; None before enough are known."""
        paces = self._paces.get(workflow, ())
        pace = percentile(list(paces), 0.1) if len(paces) >= self.LEAST else None
        return None if pace is None else max(0.05, self.FACTOR * pace * work)
