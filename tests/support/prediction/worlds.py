"""Simulated servers of invented costs, and requests to them."""

import random
from collections.abc import Sequence

from benchmarks.prediction.systems.lego import ServerLayout
from benchmarks.prediction.systems.server import SimulatedServer
from benchmarks.prediction.systems.simulation import Simulation
from loadgen.client import Deadline, Sample
from loadgen.mixed.plan import Layout
from loadgen.traffic import ImageRequest
from tests.support.prediction.profiles import profile


class At:
    """Requests at given times."""

    def __init__(self, times_s: Sequence[float]) -> None:
        self._times_s = list(times_s)

    def times_s(self, rng: random.Random) -> list[float]:
        return self._times_s


def lego(backbones: int = 2, **costs: object) -> SimulatedServer:
    return Simulation(profile(**costs), ServerLayout(backbones)).lego()


def monolith(layout: Layout | None = None) -> SimulatedServer:
    return Simulation(profile(), ServerLayout()).baseline(layout or Layout(2, 1))


def request(side: int = 128, steps: int = 10, guidance: float = 4.0) -> ImageRequest:
    return ImageRequest("a red circle", side, side, steps, guidance, 0)


def served(
    server: SimulatedServer,
    requests: Sequence[ImageRequest],
    times_s: Sequence[float],
    deadline_s: Deadline | None = None,
) -> list[Sample]:
    with server as started:
        return started.run(requests, At(times_s), random.Random(0), deadline_s)
