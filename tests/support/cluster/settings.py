"""Small clusters and requests for tests of the brain of a cluster and of the simulator."""

import random
from pathlib import Path

from lego_serve.cluster_files import read_cluster
from lego_serve.core.cluster.profiles import CostModel, Profile
from lego_serve.core.cluster.work import JobWork, WorkflowShape
from lego_serve.sim.cluster import GIB, Setting
from lego_serve.sim.workload import Request, poisson, requests_of

CONFIGS = Path(__file__).parents[3] / "configs" / "clusters"
NODES = ("t5", "clip", "schnell", "canny", "depth", "vae")


def artifact(gpus: int | None = None) -> Setting:
    """The eight GPUs of DiFlow's artifact, or another number of them."""
    return read_cluster(CONFIGS / "h800_8.yaml").setting(gpus)


def poisson_requests(setting: Setting, rate: float, count: int, seed: int) -> list[Request]:
    """Requests that come at random."""
    rng = random.Random(seed)
    return requests_of(poisson(rate, count, rng), setting.shares, setting.slo_s, rng)


def small_costs(load_s: float = 1.0, size_bytes: int = 10) -> CostModel:
    """Models a, b and c with a step of 0.1 s for a row, 0.19 s for two; e encodes, d decodes."""
    steps = ((1, 0.1), (2, 0.19), (4, 0.36))
    backbones = (Profile(name, load_s, size_bytes, steps) for name in "abc")
    return CostModel([*backbones, Profile("e", 0.1, 1, ((1, 0.02),)), Profile("d", 0.1, 1, ((1, 0.05),))])


def small_work(backbone: str = "a", steps: int = 4, scale: float = 1.0, costs: CostModel | None = None) -> JobWork:
    """A job of two branches on one of the small models: 0.04 + steps x 0.19 + 0.05 s on one worker."""
    shape = WorkflowShape(backbone, backbone, steps, 2, encoders=("e",), decoder="d")
    return JobWork(shape, costs or small_costs(), scale)


def queue(servers: int, mean_s: float, slo_s: float) -> Setting:
    """One workflow of one pass on so many GPUs; a request's scale is its service over the mean."""
    costs = CostModel([Profile("m", 0.0, 1, ((1, mean_s),))])
    return Setting(servers, GIB, costs, {"w": WorkflowShape("w", "m", 1)}, {"w": 1.0}, slo_s / mean_s)
