"""The simulated systems: nothing takes less than its parts, more load never helps, and the same is the same."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.prediction.costs import AddonShares, step_work
from benchmarks.prediction.systems.lego import EXPIRED, LATE
from loadgen.mixed.plan import Layout
from loadgen.traffic import ClosedLoop, ImageRequest
from tests.support.prediction.profiles import TEXT, server_costs
from tests.support.prediction.worlds import lego, monolith, request, served

sides = st.sampled_from([96, 128, 192])
kinds = st.builds(request, sides, st.integers(1, 12), st.sampled_from([1.0, 4.0]))
loads = st.lists(st.tuples(kinds, st.floats(0.0, 2.0)), min_size=1, max_size=15)


def least_s(each: ImageRequest) -> float:
    """Seconds of a request's own nodes on lego_serve."""
    costs = server_costs()
    work = step_work(each, AddonShares(), TEXT)
    nodes = costs.encode.seconds(1) + costs.decode.seconds(each.width * each.height)
    gaps = sum(costs.handover_s.values()) + costs.outside_s + (each.steps - 1) * costs.between_steps_s
    return nodes + gaps + each.steps * costs.step.seconds(work.rows, work.pairs)


@settings(max_examples=40, deadline=None)
@given(loads)
def test_no_request_takes_less_than_its_own_nodes(load: list[tuple[ImageRequest, float]]) -> None:
    """Whatever company it has; and alone it takes exactly that."""
    requests, times_s = [each for each, _ in load], sorted(at_s for _, at_s in load)
    samples = served(lego(), requests, times_s)
    assert all(sample.is_ok for sample in samples)
    for each, sample in zip(requests, samples, strict=True):
        assert sample.latency_s >= least_s(each) - 1e-6
    [alone] = served(lego(), requests[:1], [0.0])
    assert alone.latency_s == pytest.approx(least_s(requests[0]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.2, 0.9))
def test_whole_images_never_gain_by_coming_faster(seed: int, count: int, faster: float) -> None:
    """One trace scaled in time: on a baseline of one replica no request waits less when all come sooner."""
    rng = random.Random(seed)
    times_s = sorted(rng.uniform(0.0, 6.0) for _ in range(count))
    requests = [request(rng.choice([96, 128, 192]), rng.randint(1, 12)) for _ in range(count)]
    slow = served(monolith(Layout(1, 1)), requests, times_s)
    fast = served(monolith(Layout(1, 1)), requests, [faster * at_s for at_s in times_s])
    for before, after in zip(slow, fast, strict=True):
        assert after.latency_s >= before.latency_s - 1e-6


@pytest.mark.parametrize("name", ["lego", "baseline"])
def test_mean_latency_grows_with_the_rate(name: str) -> None:
    """One trace of two hundred requests, offered at rates from a fifth to twice what can be served."""
    rng = random.Random(3)
    times_s = sorted(rng.uniform(0.0, 200.0) for _ in range(200))
    requests = [request(rng.choice([96, 128, 192]), rng.randint(4, 12)) for _ in range(200)]
    means = []
    for rate in (1.0, 2.0, 4.0, 8.0):
        server = lego() if name == "lego" else monolith()
        samples = served(server, requests, [at_s / rate for at_s in times_s])
        means.append(sum(sample.latency_s for sample in samples) / len(samples))
    assert means == sorted(means)
    assert means[-1] > 2 * means[0]


@settings(max_examples=15, deadline=None)
@given(loads)
def test_the_same_requests_end_at_the_same_times(load: list[tuple[ImageRequest, float]]) -> None:
    """On both systems, to the last bit."""
    requests, times_s = [each for each, _ in load], sorted(at_s for _, at_s in load)
    for make in (lego, monolith):
        first, second = (served(make(), requests, times_s, lambda each: 3.0) for _ in range(2))
        assert first == second


def test_what_cannot_be_in_time_is_refused_at_once_and_what_is_not_ends_at_its_deadline() -> None:
    """The server learns what a job takes from the first ones, and refuses by that."""
    server = lego()
    served(server, [request()] * 4, [0.0, 1.0, 2.0, 3.0])
    samples = served(server, [request()] * 30, [0.0] * 30, lambda each: 1.0)
    statuses = {sample.reply.status for sample in samples}
    assert LATE.status in statuses
    assert all(sample.latency_s < 0.1 for sample in samples if sample.reply.status == LATE.status)
    [expired] = served(lego(), [request(steps=100)], [0.0], lambda each: 0.5)
    assert expired.reply == EXPIRED
    assert expired.latency_s == pytest.approx(0.5 + server_costs().outside_s)


def test_lanes_share_steps() -> None:
    """Two at once on one backbone end sooner than one after the other."""
    together = served(lego(1), [request(96)] * 2, [0.0, 0.0])
    assert max(sample.done_s for sample in together) < 2 * least_s(request(96))


def test_a_closed_loop_keeps_as_many_outstanding() -> None:
    """Each is due when one before it is answered, and the first at once."""
    with monolith(Layout(1, 1)) as server:
        samples = server.run([request()] * 5, ClosedLoop(5, 2), random.Random(0))
    assert [sample.due_s for sample in samples[:2]] == [0.0, 0.0]
    assert [sample.due_s for sample in samples[2:]] == [sample.done_s for sample in samples[:3]]


def test_a_second_thread_leaves_less_for_others() -> None:
    """Two replicas of two threads on two cores are no faster together than one after the other."""
    [alone] = served(monolith(Layout(1, 2)), [request()], [0.0])
    both = served(monolith(Layout(2, 2)), [request()] * 2, [0.0, 0.0])
    assert max(sample.latency_s for sample in both) >= 2 * alone.latency_s - 1e-9
