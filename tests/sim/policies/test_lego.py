"""Our policy against baselines and the bound, in short runs."""

import random
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulator.many_models import zoo_load
from lego_serve.cluster_files import read_cluster
from lego_serve.core.cluster.autoscaling import ScalerRule
from lego_serve.core.cluster.outlook import Outlook
from lego_serve.sim.cluster import Noise
from lego_serve.sim.policies.lego import Lego
from lego_serve.sim.policies.names import POLICIES, lego_options, policy_named, preloaded
from lego_serve.sim.policies.scaled import ScaledLego
from lego_serve.sim.report import fluid_bound
from lego_serve.sim.run import simulate
from lego_serve.sim.workload import gamma, requests_of, retimed
from tests.support.cluster.settings import CONFIGS, artifact, poisson_requests

SETTING = artifact()


@settings(max_examples=12)
@given(st.sampled_from(sorted(POLICIES)), st.integers(0, 999), st.floats(2.0, 12.0), st.floats(0.3, 3.0))
def test_no_policy_is_above_the_bound(name: str, seed: int, rate: float, cv: float) -> None:
    """Whatever arrives, and each request has one fate."""
    rng = random.Random(seed)
    requests = requests_of(gamma(rate, cv, 60, rng), SETTING.shares, SETTING.slo_s, rng)
    outcome = simulate(SETTING, requests, policy_named(name, SETTING))
    assert outcome.attainment <= fluid_bound(SETTING, requests) + 1e-9
    assert len(outcome.ended) == len(requests)


def test_what_is_admitted_and_not_shed_is_in_time_where_estimates_hold() -> None:
    """At twice the capacity nothing is late."""
    outcome = simulate(SETTING, poisson_requests(SETTING, 8.0, 250, 7), policy_named("lego", SETTING))
    assert outcome.statuses().keys() <= {"met", "rejected", "shed"}


def test_it_serves_more_than_diflow_and_static_groups_near_saturation() -> None:
    """At 4.5 requests a second, in the mean of two loads, by at least 10 points."""
    loads = [poisson_requests(SETTING, 4.5, 300, seed) for seed in (21, 22)]

    def served(name: str) -> float:
        return sum(simulate(SETTING, load, policy_named(name, SETTING)).attainment for load in loads) / len(loads)

    assert served("lego") > max(served("diflow"), served("diflow-no-admission"), served("static+drop")) + 0.1
    assert served("lego") > 0.93 * sum(fluid_bound(SETTING, load) for load in loads) / len(loads)


def test_goodput_holds_far_beyond_saturation() -> None:
    """At 40 requests a second at least 95 % of what is served at 6."""

    def goodput(rate: float, count: int) -> float:
        outcome = simulate(SETTING, poisson_requests(SETTING, rate, count, 8), policy_named("lego", SETTING))
        return sum(each.status == "met" for each in outcome.ended) / max(each.at_s for each in outcome.ended)

    assert goodput(40.0, 1000) > 0.95 * goodput(6.0, 150)


def test_bursts_split_jobs_that_would_be_late() -> None:
    """Sixteen at once on eight idle GPUs, and twelve more in the next two seconds: all in time, some on two GPUs."""
    rng = random.Random(1)
    times = [0.0] * 16 + [0.2 * number for number in range(1, 6)]
    requests = requests_of(times, SETTING.shares, SETTING.slo_s, rng)
    with_splits = simulate(SETTING, requests, policy_named("lego", SETTING), window_s=10.0)
    without = simulate(SETTING, requests, policy_named("lego-no-split", SETTING))
    assert with_splits.attainment >= without.attainment
    assert any(span.kind == "split" for span in with_splits.spans)


def test_old_reports_cost_little_while_a_dispatcher_binds_late() -> None:
    """Four gateways with reports of 2 s serve as much as one; without a dispatcher at least 60 % of it."""
    requests = poisson_requests(SETTING, 4.4, 250, 9)

    def served(**parts: int) -> float:
        options = lego_options()
        made = type(options)(options.rule, stale_s=2.0 if parts else 0.0, **parts)
        return simulate(SETTING, requests, Lego(made, preloaded(SETTING))).attainment

    assert served(gateways=4) >= 0.95 * served()
    assert served(gateways=4, cells=8, choices=2) >= 0.6 * served()


def test_estimates_that_stray_cost_little() -> None:
    """With calls 10 % off at least 95 % of what is served with exact ones; late are at most 3 %."""
    requests = poisson_requests(SETTING, 4.4, 250, 10)
    exact = simulate(SETTING, requests, policy_named("lego", SETTING))
    noisy = simulate(SETTING, requests, policy_named("lego", SETTING), noise=Noise(cost_error=0.1))
    assert noisy.attainment > 0.95 * exact.attainment
    assert noisy.statuses().get("late", 0) <= 0.03 * len(requests)


@pytest.mark.parametrize(("name", "least"), [("lego", 0.9), ("diflow", 0.0)])
def test_eighteen_workflows_on_sixteen_gpus(name: str, least: float) -> None:
    """At 3.5 requests a second lego serves 90 % and each class three quarters; diflow, which never waits, thrashes."""
    zoo = read_cluster(CONFIGS / "h800_zoo_16.yaml").setting()
    outcome = simulate(zoo, retimed(zoo_load(zoo, 5, 250), 3.5), policy_named(name, zoo))
    loads = sum(gpu.loads for gpu in outcome.gpus) / len(outcome.ended)
    assert outcome.attainment >= least
    assert (outcome.attainment < 0.5) == (name == "diflow")
    assert (loads > 2.0) == (name == "diflow")


def test_workers_follow_the_load() -> None:
    """A rate that grows from one in two seconds to three a second brings workers; few requests are lost meanwhile."""
    rng = random.Random(3)
    gaps = [max(1.0 / 3.0, 2.0 - 0.02 * number) for number in range(220)]
    times = list(accumulate(gaps))
    requests = requests_of(times, SETTING.shares, SETTING.slo_s, rng)
    scaled = ScaledLego(lego_options(), ScalerRule(0.6, 5.0, 60.0, 20.0), 2, 5.0)
    outcome = simulate(SETTING, requests, scaled)
    assert outcome.attainment >= 0.8
    assert outcome.notes["most"] > 4
    assert outcome.notes["gpu_s_active"] < 0.8 * 8 * times[-1]


def test_the_quick_answer_of_admission_is_the_schedule_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it every request has the same fate, also with splits, sheds and estimates that stray."""

    def fates(noise: Noise) -> str:
        load = poisson_requests(SETTING, 4.2, 120, 12)
        return repr(simulate(SETTING, load, policy_named("lego", SETTING), noise=noise, seed=2).ended)

    worlds = (Noise(), Noise(cost_error=0.1))
    quick = [fates(noise) for noise in worlds]
    monkeypatch.setattr(Outlook, "quick_end_s", lambda self, lane, now: None)
    assert [fates(noise) for noise in worlds] == quick
