"""Deals requests with add-ons: sizes, steps and prompts as suite ``mixed`` does, add-ons by popularity.

The pattern that all probes of a round share fixes how many add-ons each request has, for they decide its cost; which
ones they are is drawn anew for each phase, so that no cache is warmer for having seen the same sequence before.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.addons.images import IMAGES
from loadgen.addons.plan import AddonsPlan, Service
from loadgen.addons.request import AddonsRequest
from loadgen.mixed.objective import SOLO_PROMPT
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.workload import Workload
from loadgen.popularity import CLUSTERING, CURVES, Points, read_curves, shares, stream
from loadgen.traffic import ImageRequest

KATZ = Path("../shared/data/profiles/katz_popularity.json")  # read where it is, beside the project


@dataclass(frozen=True, slots=True)
class Names:
    """What add-ons are called, by service, the most popular first."""

    adapters: tuple[tuple[str, ...], ...]
    controlnets: tuple[tuple[str, ...], ...]


def dealt(plan: AddonsPlan, adapters: Sequence[str], controlnets: Sequence[str], seed: int) -> Names:
    """Give each service its own at random, so that no size goes with popularity."""
    rng = random.Random(f"{seed}/names")
    one, other = (rng.sample(list(names), len(names)) for names in (adapters, controlnets))
    return Names(
        tuple(_parts(one, [service.adapters for service in plan.services])),
        tuple(_parts(other, [service.controlnets for service in plan.services])),
    )


def _parts(names: Sequence[str], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    if len(names) < sum(counts):
        raise ValueError(f"{sum(counts)} names are needed, and there are {len(names)}")
    for end, count in zip(itertools.accumulate(counts), counts, strict=True):
        yield tuple(names[end - count : end])


class AddonsWorkload:
    """Deals requests by phase; ``curves`` are Katz's, or the package's own of the same shape."""

    def __init__(
        self, suite: MixedSuite, plan: AddonsPlan, names: Names, seed: int, curves: dict[str, Points] | None = None
    ) -> None:
        self._plain = Workload(suite, seed)
        self._suite, self._plan, self._names, self._seed = suite, plan, names, seed
        self._curves = dict(CURVES) if curves is None else curves

    def gaps(self, round_number: int, phase: int) -> random.Random:
        """The chance by which a phase's requests fall due."""
        return self._plain.gaps(round_number, phase)

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """The first ``count`` requests of a phase."""
        plain = self._plain.requests(round_number, phase, count)
        counts = random.Random(f"{self._plain.pattern(round_number, phase)}/addons")
        identity = random.Random(f"{self._seed}/{round_number}/{phase}/addons")
        drawn = [_Draws(service, self._curves, identity) for service in self._plan.services]
        return [self._dressed(request, counts, identity, drawn) for request in plain]

    def solo_grid(self) -> list[ImageRequest]:
        """One request for each size, number of ControlNets and number of adapters, at the fewest and the most steps.

        Those with most add-ons and fewest steps come last.
        """
        sizes = [size for kind in self._suite.classes for size in kind.sizes]
        most_nets = max(len(service.controlnet_counts) for service in self._plan.services)
        most_adapters = max(len(service.adapter_counts) for service in self._plan.services)
        mixes = itertools.product(range(most_nets), range(most_adapters))
        return [
            self._request(
                ImageRequest(SOLO_PROMPT, width, height, steps, self._suite.guidance, 0),
                self._names.adapters[0][:adapters],
                tuple((name, 0) for name in self._names.controlnets[0][:nets]),
            )
            for (nets, adapters), (width, height), steps in itertools.product(
                mixes, sizes, (self._suite.most_steps, self._suite.fewest_steps)
            )
        ]

    @property
    def plain_request(self) -> ImageRequest:
        """An image without add-ons by whose time the storage's is set: middling in size and steps."""
        sizes = self._suite.classes[len(self._suite.classes) // 2].sizes
        steps = (self._suite.fewest_steps + self._suite.most_steps) // 2
        return ImageRequest(SOLO_PROMPT, *sizes[0], steps, self._suite.guidance, 0)

    def _dressed(
        self, plain: ImageRequest, counts: random.Random, identity: random.Random, drawn: Sequence["_Draws"]
    ) -> AddonsRequest:
        at = counts.randrange(len(self._plan.services))
        service = self._plan.services[at]
        adapters = drawn[at].adapters(_count(service.adapter_counts, counts))
        nets = drawn[at].controlnets(_count(service.controlnet_counts, counts))
        return self._request(
            plain,
            tuple(self._names.adapters[at][number] for number in adapters),
            tuple((self._names.controlnets[at][number], identity.randrange(IMAGES)) for number in nets),
        )

    def _request(
        self, plain: ImageRequest, adapters: tuple[str, ...], controlnets: tuple[tuple[str, int], ...]
    ) -> AddonsRequest:
        return AddonsRequest(
            plain.prompt, plain.width, plain.height, plain.steps, plain.guidance, plain.seed,
            adapters, self._plan.adapter_scale, controlnets, self._plan.control_weight,
        )  # fmt: skip


class _Draws:
    """One service's add-ons as its requests ask for them, by popularity."""

    def __init__(self, service: Service, curves: dict[str, Points], rng: random.Random) -> None:
        def of(kind: str, count: int) -> Iterator[int]:
            name = f"{kind}_{service.name}"
            return stream(shares(curves[name], count), random.Random(rng.random()), CLUSTERING[name])

        self._adapters, self._nets = of("lora", service.adapters), of("controlnet", service.controlnets)

    def adapters(self, count: int) -> tuple[int, ...]:
        """So many different ones."""
        return _different(self._adapters, count)

    def controlnets(self, count: int) -> tuple[int, ...]:
        """So many different ones."""
        return _different(self._nets, count)


def _different(drawn: Iterator[int], count: int) -> tuple[int, ...]:
    found: dict[int, None] = {}
    while len(found) < count:
        found[next(drawn)] = None
    return tuple(found)


def _count(shares_of_counts: Sequence[float], rng: random.Random) -> int:
    return rng.choices(range(len(shares_of_counts)), shares_of_counts)[0]


def katz_curves(folder: Path) -> dict[str, Points] | None:
    """The curves from the file beside the project's folder; None where it is not there."""
    file = folder / KATZ
    return read_curves(file) if file.is_file() else None
