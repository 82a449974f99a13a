"""The loads of the tables: published traces at any rate, Poisson and bursty arrivals, and searches over them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.simulator.traces import SCALES, diflow_requests, published
from lego_serve.cluster_files import read_cluster
from lego_serve.sim.cluster import EXACT, Noise, Setting
from lego_serve.sim.policies.names import policy_named
from lego_serve.sim.report import fluid_bound
from lego_serve.sim.run import Outcome, Policy, simulate
from lego_serve.sim.statistics import highest
from lego_serve.sim.workload import Request, gamma, poisson, requests_of, retimed

CONFIGS = Path(__file__).parents[2] / "configs" / "clusters"
SEEDS = (11, 12, 13, 14, 15)  # of Poisson arrivals; those of other tables are apart
GOAL = 0.9
PATTERN_CV = 1.09  # of the published traces, where they are not here


def artifact(gpus: int | None = None, slo_scale: float | None = None) -> Setting:
    """The eight GPUs of DiFlow's artifact."""
    return read_cluster(CONFIGS / "h800_8.yaml").setting(gpus, slo_scale)


def zoo(gpus: int | None = None) -> Setting:
    """Sixteen GPUs and eighteen workflows."""
    return read_cluster(CONFIGS / "h800_zoo_16.yaml").setting(gpus)


def pattern(setting: Setting, scale: str) -> list[Request]:
    """A trace of the artifact; a bursty stream of its statistics where it is not here."""
    path = published(f"diflow_rs{scale}.txt")
    if path is not None:
        return diflow_requests(setting, path)
    rng = random.Random(f"pattern {scale}")
    count = round(89 * float(scale))
    found = requests_of(gamma(count / 120.0, PATTERN_CV, count, rng), setting.shares, setting.slo_s, rng)
    return retimed(found, count / 120.0)


def random_load(setting: Setting, seed: int, count: int = 600, cv: float = 1.0) -> list[Request]:
    """Requests that come at random, one a second, to be re-timed."""
    rng = random.Random(seed)
    times = poisson(1.0, count, rng) if cv == 1.0 else gamma(1.0, cv, count, rng)
    return retimed(requests_of(times, setting.shares, setting.slo_s, rng), 1.0)


def all_loads(setting: Setting, *, quick: bool = False) -> dict[str, list[Request]]:
    """The seven published traces and five of Poisson arrivals; of each two for a quick run."""
    scales, seeds = (("4.0", "8.0"), SEEDS[:2]) if quick else (SCALES, SEEDS)
    loads = {f"trace {scale}": pattern(setting, scale) for scale in scales}
    return loads | {f"Poisson {seed}": random_load(setting, seed) for seed in seeds}


def run(
    setting: Setting, requests: Sequence[Request], policy: str | Callable[[], Policy], *, noise: Noise = EXACT
) -> Outcome:
    """Serve requests under a policy, by its name or by what makes it."""
    made = policy_named(policy, setting) if isinstance(policy, str) else policy()
    return simulate(setting, requests, made, noise=noise, seed=1)


def attainment(
    setting: Setting, requests: Sequence[Request], policy: str | Callable[[], Policy], *, noise: Noise = EXACT
) -> float:
    """The share served in time; of a policy ``bound ...`` what no policy can exceed."""
    if isinstance(policy, str) and policy.startswith("bound"):
        return fluid_bound(setting, requests, policy.removeprefix("bound "))
    return run(setting, requests, policy, noise=noise).attainment


def highest_rate(
    setting: Setting,
    load: Sequence[Request],
    policy: str | Callable[[], Policy],
    *,
    high: float = 8.0,
    low: float = 0.4,
    tolerance: float = 0.02,
    is_met: Callable[[Outcome], bool] | None = None,
    noise: Noise = EXACT,
) -> float:
    """The highest rate at which the load is served: 90 % in time, or another condition."""

    def served(rate: float) -> bool:
        requests = retimed(load, rate)
        if is_met is not None:
            return is_met(run(setting, requests, policy, noise=noise))
        return attainment(setting, requests, policy, noise=noise) >= GOAL

    return round(highest(served, low, high, tolerance), 3)


def gpus_needed(setting: Setting, requests: Sequence[Request], policy: str, most: int = 24) -> int:
    """The fewest GPUs that serve 90 % in time."""
    for gpus in range(1, most + 1):
        if attainment(replace(setting, gpus=gpus), requests, policy) >= GOAL:
            return gpus
    return most + 1


def work_shares(requests: Sequence[Request]) -> Mapping[str, float]:
    """The seconds that each workflow of a trace asks for, over all."""
    total: dict[str, float] = {}
    for each in requests:
        total[each.workflow] = total.get(each.workflow, 0.0) + each.scale
    return total
