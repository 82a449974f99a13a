"""Popularity curves of ControlNets and LoRAs, their sizes and load times, and requests drawn from them.

The control points are read off the popularity figures of Katz (SwiftDiffusion, two production services A and B over
20 days): the share of all invocations that goes to the k most popular.  The catalogues' lengths are that paper's
counts (about 150 ControlNets and 14,500 LoRAs over both services), divided between the two.
"""

import bisect
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Points = Sequence[tuple[float, float]]  # (k, per cent of invocations that go to the k most popular), ascending

CURVES: Mapping[str, Points] = {
    "controlnet_A": (
        (1, 31.1),
        (2, 56.4),
        (3, 73.5),
        (4, 89.3),
        (5, 97.55),
        (6, 98.7),
        (8, 99.0),
        (10, 99.2),
        (16, 99.6),
    ),
    "controlnet_B": ((1, 22.2), (2, 35.7), (4, 60.8), (6, 80.6), (8, 94.5), (10, 97.5), (12, 99.4), (16, 99.9)),
    "lora_A": ((3, 9.3), (9, 19.3), (24, 30.1), (60, 39.5), (146, 49.8), (520, 65.8), (1529, 80.2), (4500, 95.7)),
    "lora_B": ((2, 26.6), (6, 40.4), (13, 52.5), (24, 60.1), (61, 68.5), (152, 74.9), (643, 84.8), (4500, 97.8)),
}
CATALOGUE = {"controlnet": 75, "lora": 7250}  # add-ons of one service, by kind
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Thing:
    """An add-on that has to be loaded before it is used: its bytes and seconds a load."""

    size: int
    load_s: float


@dataclass(frozen=True, slots=True)
class Locality:
    """How requests cluster: with probability ``share`` a request repeats a recent one.

    The distance back to that one is geometric with mean ``reach``.  A share of 0 is the independent reference model.
    """

    share: float = 0.0
    reach: float = 4.0


# Chosen so that an LRU of 1 to 10 places loads about as often as the paper's (about 1.8 ControlNets or LoRAs a request,
# one of service B's LoRAs); only with places for all of service A's usual ControlNets does the paper's load less.
CLUSTERING: Mapping[str, Locality] = {
    "controlnet_A": Locality(0.2, 3.0),
    "controlnet_B": Locality(0.4, 3.0),
    "lora_A": Locality(0.3, 3.0),
    "lora_B": Locality(0.2, 3.0),
}


def read_curves(path: Path) -> dict[str, Points]:
    """Read curves from a JSON file with keys ``controlnet_topk_cum_pct_A`` and so on, under the names of `CURVES`."""
    content = json.loads(path.read_text())
    curves: dict[str, Points] = {}
    for name in CURVES:
        kind, service = name.split("_")
        curves[name] = [(k, share) for k, share in content[f"{kind}_topk_cum_pct_{service}"]]
    return curves


def shares(points: Points, count: int) -> list[float]:
    """Return the share of the requests for each of ``count`` add-ons, most popular first; they add up to 1.

    The cumulative curve is interpolated in log(k + 1), where popularity curves are nearly straight; a catalogue
    longer than the curve goes on to 100 %, a shorter one is cut off and scaled up.
    """
    known = dict([(0.0, 0.0), *points])
    if count > max(known):
        known[count] = 100.0
    ks = sorted(known)
    total = [_interpolate(ks, known, k) for k in range(count + 1)]
    steps = sorted((after - before for before, after in itertools.pairwise(total)), reverse=True)
    return [step / total[-1] for step in steps]


def _interpolate(ks: Sequence[float], known: Mapping[float, float], k: float) -> float:
    index = max(1, bisect.bisect_left(ks, k))
    low, high = ks[index - 1], ks[index]
    position = (math.log1p(k) - math.log1p(low)) / (math.log1p(high) - math.log1p(low))
    return known[low] + position * (known[high] - known[low])


def catalogue(kind: str, count: int, rng: random.Random) -> list[Thing]:
    """Return ``count`` add-ons as different as those of a service, in no relation to their popularity.

    A LoRA has a rank of 4 to 128 (341 MiB at rank 64, Katz's example), a ControlNet 0.7 to 4.3 GiB.  A load takes a
    round trip to the storage and then a time in proportion to the bytes; one in four comes from a storage that is four
    times as slow.
    """
    things = []
    for _ in range(count):
        size = round(341 * MIB * rng.choice((4, 8, 16, 32, 64, 128)) / 64)
        if kind == "controlnet":
            size = round(rng.choice((0.7, 1.1, 1.4, 2.4, 4.3)) * 1024 * MIB)
        slowness = 4.0 if rng.random() < 0.25 else 1.0
        things.append(Thing(size, slowness * (0.1 + size / (500 * MIB))))
    return things


def alike(count: int) -> list[Thing]:
    """Return ``count`` add-ons of one size and one load time."""
    return [Thing(341 * MIB, 1.0)] * count


def stream(
    popularity: Sequence[float], rng: random.Random, locality: Locality | None = None, shift_after: int | None = None
) -> Iterator[int]:
    """Yield requests without end, each the index of an add-on; ``shift_after`` of them shuffle the ranks anew."""
    locality = locality or Locality()
    owner = list(range(len(popularity)))
    cumulative = list(itertools.accumulate(popularity))
    past: list[int] = []
    for number in itertools.count():
        if number == shift_after:
            rng.shuffle(owner)
            past.clear()
        back = int(rng.expovariate(1 / locality.reach)) + 1 if rng.random() < locality.share else 0
        rank = bisect.bisect_left(cumulative, rng.random() * cumulative[-1])
        index = past[-back] if 0 < back <= len(past) else owner[min(rank, len(owner) - 1)]
        past.append(index)
        yield index
