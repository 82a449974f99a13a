"""The simulator against closed forms of queueing theory."""

import math
import random

import pytest

from lego_serve.sim.policies.static import Static
from lego_serve.sim.run import Outcome, simulate
from lego_serve.sim.workload import Request, poisson
from tests.support.cluster.settings import queue

COUNT = 60_000


def served(servers: int, load: float, slo_s: float, *, is_exponential: bool, seed: int, drops: bool = False) -> Outcome:
    """Serve Poisson arrivals of mean service 1 s, first come first served, at a share of the servers' capacity."""
    rng = random.Random(seed)
    arrivals = poisson(servers * load, COUNT, rng)
    requests = [
        Request(number, at_s, "w", slo_s, rng.expovariate(1.0) if is_exponential else 1.0)
        for number, at_s in enumerate(arrivals)
    ]
    policy = Static({"w": range(servers)}, drops_hopeless=drops)
    return simulate(queue(servers, 1.0, slo_s), requests, policy)


def mean_wait_s(outcome: Outcome) -> float:
    """The mean seconds before service."""
    return sum(each.at_s - each.request.at_s - each.request.scale for each in outcome.ended) / len(outcome.ended)


def erlang_b(servers: int, offered: float) -> float:
    """The share of arrivals that find all servers busy where nobody waits."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def test_exponential_services_wait_as_erlang_c_says() -> None:
    """M/M/4 at 70 % load: the mean wait within 3 %."""
    blocked = erlang_b(4, 2.8)
    wait = blocked / (1 - 0.7 * (1 - blocked)) / (4 - 2.8)
    outcome = served(4, 0.7, 1e6, is_exponential=True, seed=2)
    assert mean_wait_s(outcome) == pytest.approx(wait, rel=0.03)


def test_fixed_services_wait_as_pollaczek_and_khinchine_say() -> None:
    """M/D/1 at half load: the mean wait within 3 %."""
    outcome = served(1, 0.5, 1e6, is_exponential=False, seed=4)
    assert mean_wait_s(outcome) == pytest.approx(0.5, rel=0.03)


def test_who_cannot_wait_is_lost_as_erlang_b_says() -> None:
    """M/D/5/5: who finds all servers busy is lost, within 3 %, whatever the services' distribution."""
    outcome = served(5, 0.8, 1.0, is_exponential=False, seed=3, drops=True)
    assert 1 - outcome.attainment == pytest.approx(erlang_b(5, 4.0), rel=0.03)
    assert math.isclose(sum(gpu.busy_s for gpu in outcome.gpus), outcome.attainment * COUNT)
