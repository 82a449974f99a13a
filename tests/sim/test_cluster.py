"""The simulated machines."""

import random
from itertools import pairwise

import pytest

from lego_serve.core.cluster.work import WorkflowShape
from lego_serve.errors import ConfigError
from lego_serve.sim.cluster import Noise, Setting, SimCluster, SimulationError
from lego_serve.sim.policies.names import policy_named
from lego_serve.sim.run import simulate
from lego_serve.sim.workload import gamma, on_off, retimed
from tests.support.cluster.settings import artifact, poisson_requests, small_costs

SHAPES = {kind: WorkflowShape(kind, kind, 4, 2, encoders=("e",), decoder="d") for kind in "abc"}
SETTING = Setting(2, 22, small_costs(), SHAPES, dict.fromkeys("abc", 1.0), 3.0)


def nothing() -> None:
    """Nobody waits for the end."""


def test_an_order_that_no_machine_could_follow_is_an_error() -> None:
    """A busy GPU, a missing model, a model that runs, and more bytes than there are."""
    cluster = SimCluster(SETTING)
    cluster.preload(0, "abe")
    cluster.execute((0,), 1.0, frozenset("a"), nothing)
    with pytest.raises(SimulationError, match="GPU 0 is busy"):
        cluster.execute((0,), 1.0, frozenset("a"), nothing)
    with pytest.raises(SimulationError, match=r"GPU 1 lacks \['a'\]"):
        cluster.execute((1,), 1.0, frozenset("a"), nothing)
    with pytest.raises(SimulationError, match="GPU 0 runs a"):
        cluster.evict(0, "a")
    with pytest.raises(SimulationError, match="GPU 0 has 1 bytes free"):
        cluster.load(0, "c", nothing)


def test_loads_run_beside_calls_and_one_after_the_other() -> None:
    """Two models of one second each are there after one and two, while a call runs for five."""
    cluster = SimCluster(SETTING)
    cluster.preload(0, "a")
    cluster.execute((0,), 5.0, frozenset("a"), nothing)
    assert cluster.load(0, "be", nothing) == pytest.approx(1.1)
    cluster.engine.run(1.05)
    assert set(cluster.gpus[0].resident) == {"a", "b"}


def test_a_workflow_that_fits_no_gpu_is_refused() -> None:
    """The error names the workflow and both sizes."""
    with pytest.raises(ConfigError, match="workflow a: its models need"):
        Setting(1, 3, small_costs(), {"a": SHAPES["a"]}, {})


def test_the_same_seed_gives_the_same_run() -> None:
    """Every end, status and reason, also with noise; another seed gives another run."""
    setting = artifact()
    requests = poisson_requests(setting, 4.6, 120, 3)

    def run(seed: int) -> str:
        policy = policy_named("lego", setting)
        return repr(simulate(setting, requests, policy, noise=Noise(cost_error=0.1, hop_s=0.001), seed=seed).ended)

    assert run(1) == run(1) != run(2)


def test_time_is_conserved() -> None:
    """What GPUs were busy for is the sum of all calls, and each request has one fate."""
    setting = artifact()
    requests = poisson_requests(setting, 6.0, 200, 4)
    outcome = simulate(setting, requests, policy_named("lego", setting), window_s=1e9)
    spans: dict[int, float] = {}
    for span in outcome.spans:
        spans[span.gpu] = spans.get(span.gpu, 0.0) + span.end_s - span.start_s
    assert [gpu.busy_s for gpu in outcome.gpus] == pytest.approx([spans[gpu.id] for gpu in outcome.gpus])
    assert sum(outcome.statuses().values()) == len(requests)


def test_arrivals_have_their_rate_and_burstiness() -> None:
    """Gamma gaps have their coefficient of variation, on and off their mean rate; re-timing keeps the shape."""
    rng = random.Random(5)
    times = gamma(2.0, 2.0, 20_000, rng)
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.5, rel=0.05)
    assert spread / mean == pytest.approx(2.0, rel=0.05)
    assert len(times) / on_off(2.0, 3.0, 5.0, 20.0, 20_000, rng)[-1] == pytest.approx(2.0, rel=0.05)
    requests = poisson_requests(artifact(), 4.0, 100, 1)
    faster = retimed(requests, 8.0)
    assert 99 / (faster[-1].at_s - faster[0].at_s) == pytest.approx(8.0)
