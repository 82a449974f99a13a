"""Deals requests with add-ons: sizes, steps and prompts as suite ``mixed`` does, add-ons by popularity.

The pattern that all probes of a round share fixes how many add-ons each request has, for they decide its cost; each
phase draws anew which ones they are, so that no phase finds a cache warmed by the same sequence.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loadgen.addons.images import IMAGES
from loadgen.addons.plan import AddonsPlan, Service
from loadgen.addons.request import AddonsRequest
from loadgen.mixed.objective import SOLO_PROMPT
from loadgen.mixed.plan import MixedSuite
from loadgen.mixed.workload import Workload
from loadgen.popularity import CLUSTERING, CURVES, Points, read_curves, shares, stream
from loadgen.traffic import ImageRequest

KATZ = Path("../shared/data/profiles/katz_popularity.json")  # relative to the project's folder


@dataclass(frozen=True, slots=True)
class AddonNames:
    """The names of the add-ons of each service, the most popular first."""

    adapters: tuple[tuple[str, ...], ...]
    controlnets: tuple[tuple[str, ...], ...]


def assign_names(plan: AddonsPlan, adapters: Sequence[str], controlnets: Sequence[str], seed: int) -> AddonNames:
    """Give each service its own names at random, so that size and popularity are independent.

    Raises ValueError for fewer names than the plan needs.
    """
    rng = random.Random(f"{seed}/names")
    shuffled_adapters, shuffled_nets = (rng.sample(list(names), len(names)) for names in (adapters, controlnets))
    return AddonNames(
        tuple(_split(shuffled_adapters, [service.adapters for service in plan.services])),
        tuple(_split(shuffled_nets, [service.controlnets for service in plan.services])),
    )


def _split(names: Sequence[str], counts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    if len(names) < sum(counts):
        raise ValueError(f"{sum(counts)} names are needed, and there are {len(names)}")
    for end, count in zip(itertools.accumulate(counts), counts, strict=True):
        yield tuple(names[end - count : end])


class AddonsWorkload:
    """The requests of suite ``addons``; ``curves`` are Katz's, by default the package's own of the same shape."""

    def __init__(
        self, suite: MixedSuite, plan: AddonsPlan, names: AddonNames, seed: int, curves: dict[str, Points] | None = None
    ) -> None:
        self._plain = Workload(suite, seed)
        self._suite, self._plan, self._names, self._seed = suite, plan, names, seed
        self._curves = dict(CURVES) if curves is None else curves

    def arrival_rng(self, round_number: int, phase: int) -> random.Random:
        """Return the generator that times a phase's arrivals."""
        return self._plain.arrival_rng(round_number, phase)

    def requests(self, round_number: int, phase: int, count: int) -> list[ImageRequest]:
        """Return the first ``count`` requests of a phase."""
        plain = self._plain.requests(round_number, phase, count)
        counts = random.Random(f"{self._plain.pattern(round_number, phase)}/addons")
        identity = random.Random(f"{self._seed}/{round_number}/{phase}/addons")
        samplers = [_AddonSampler(service, self._curves, identity) for service in self._plan.services]
        return [self._with_addons(request, counts, identity, samplers) for request in plain]

    def solo_grid(self) -> list[ImageRequest]:
        """Return each size with each number of ControlNets and adapters, at the most and the fewest steps.

        The requests with the most add-ons and the fewest steps come last.
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
        """An image without add-ons, of middle size and steps, whose time sets the storage's."""
        width, height = self._suite.classes[len(self._suite.classes) // 2].sizes[0]
        steps = (self._suite.fewest_steps + self._suite.most_steps) // 2
        return ImageRequest(SOLO_PROMPT, width, height, steps, self._suite.guidance, 0)

    def _with_addons(
        self,
        plain: ImageRequest,
        counts: random.Random,
        identity: random.Random,
        samplers: Sequence["_AddonSampler"],
    ) -> AddonsRequest:
        index = counts.randrange(len(self._plan.services))
        service, sampler = self._plan.services[index], samplers[index]
        adapters = sampler.adapters(_draw_count(service.adapter_counts, counts))
        nets = sampler.controlnets(_draw_count(service.controlnet_counts, counts))
        return self._request(
            plain,
            tuple(self._names.adapters[index][number] for number in adapters),
            tuple((self._names.controlnets[index][number], identity.randrange(IMAGES)) for number in nets),
        )

    def _request(
        self, plain: ImageRequest, adapters: tuple[str, ...], controlnets: tuple[tuple[str, int], ...]
    ) -> AddonsRequest:
        return AddonsRequest(
            **asdict(plain),
            adapters=adapters,
            adapter_scale=self._plan.adapter_scale,
            controlnets=controlnets,
            control_weight=self._plan.control_weight,
        )


class _AddonSampler:
    """Draws the add-ons of one service's requests by popularity."""

    def __init__(self, service: Service, curves: dict[str, Points], rng: random.Random) -> None:
        def sample(kind: str, count: int) -> Iterator[int]:
            name = f"{kind}_{service.name}"
            return stream(shares(curves[name], count), random.Random(rng.random()), CLUSTERING[name])

        self._adapters = sample("lora", service.adapters)
        self._nets = sample("controlnet", service.controlnets)

    def adapters(self, count: int) -> tuple[int, ...]:
        """Draw so many different adapters."""
        return _take_different(self._adapters, count)

    def controlnets(self, count: int) -> tuple[int, ...]:
        """Draw so many different ControlNets."""
        return _take_different(self._nets, count)


def _take_different(drawn: Iterator[int], count: int) -> tuple[int, ...]:
    taken: dict[int, None] = {}
    while len(taken) < count:
        taken[next(drawn)] = None
    return tuple(taken)


def _draw_count(shares_of_counts: Sequence[float], rng: random.Random) -> int:
    return rng.choices(range(len(shares_of_counts)), shares_of_counts)[0]


def katz_curves(folder: Path) -> dict[str, Points] | None:
    """Read the curves from the file beside the project's folder; None where there is none."""
    file = folder / KATZ
    return read_curves(file) if file.is_file() else None
