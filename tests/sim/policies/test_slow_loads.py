"""Models that take 22 s to load, two on a GPU, more models than places: a small form of GenTD26."""

import random

import pytest

from benchmarks.simulator.gentd import ARGMIN, HINDSIGHT, makers_of, setting_of
from lego_serve.sim.run import simulate
from lego_serve.sim.workload import Request, gamma

NAMES = [f"M{number:02}" for number in range(24)]


def requests(count: int = 700) -> list[Request]:
    """Bursty requests of Zipf popularity that run for half a minute; four GPUs of work."""
    rng = random.Random(7)
    times = gamma(4.0 / 29.0, 2.0, count, rng)
    chosen = rng.choices(NAMES, [1.0 / rank for rank in range(1, 25)], k=count)
    seconds = [min(90.0, max(8.0, rng.lognormvariate(3.2, 0.5))) for _ in range(count)]
    return [
        Request(number, at_s, name, 2.0 * running_s, running_s)
        for number, (at_s, name, running_s) in enumerate(zip(times, chosen, seconds, strict=True))
    ]


@pytest.mark.parametrize("baseline", [ARGMIN, HINDSIGHT])
def test_lego_serves_more_on_the_same_gpus(baseline: str) -> None:
    """By at least five points than argmin over idle workers, and than a static placement that knows the popularity."""
    load, makers = requests(), makers_of(dict.fromkeys(NAMES, 1.0))
    setting = setting_of(11, NAMES)
    served = {name: simulate(setting, load, makers[name](setting, load)) for name in ("lego", baseline)}
    assert served["lego"].attainment > served[baseline].attainment + 0.05
    assert served["lego"].attainment > 0.8
