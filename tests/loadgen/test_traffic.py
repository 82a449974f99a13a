import random

import pytest

from loadgen.bursts.plan import FIRST, SUITES, Suite
from loadgen.traffic import Poisson, pair_prompts, prompts


def test_poisson_rate() -> None:
    """Poisson arrivals come at their rate on average, in ascending order."""
    times = Poisson(requests=4000, rate_rps=5.0).times_s(random.Random(1))
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.05)


def test_poisson_offers_its_rate() -> None:
    """However few the requests, they fall within the very time their rate says, so two rates can be compared."""
    for seed in range(20):
        times = Poisson(requests=40, rate_rps=2.0).times_s(random.Random(seed))
        assert times[0] > 0
        assert times[-1] < 40 / 2.0


def test_poisson_pattern_scales() -> None:
    """The same chance at twice the rate gives the same pattern in half the time."""
    slow, fast = (Poisson(requests=9, rate_rps=rate).times_s(random.Random(4)) for rate in (1.0, 2.0))
    assert slow == pytest.approx([2 * each for each in fast])


def test_pair_prompts_suffice() -> None:
    """There are tens of thousands of prompts of two shapes, all different, none drawn on its own colour."""
    drawn = pair_prompts(random.Random(0))
    assert len(set(drawn)) == len(drawn) > 50_000
    assert all(prompt.split(",")[1].split()[0] not in prompt.split(",")[0].split() for prompt in drawn[:1000])


def test_poisson_gaps_are_exponential() -> None:
    """The gaps between Poisson arrivals spread as widely as their mean (coefficient of variation 1)."""
    times = Poisson(requests=4000, rate_rps=2.0).times_s(random.Random(2))
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(1.0, rel=0.1)


def test_chance_is_an_argument() -> None:
    """The same seed gives the same arrivals."""
    arrivals = Poisson(requests=20, rate_rps=1.0)
    assert arrivals.times_s(random.Random(7)) == arrivals.times_s(random.Random(7))


def test_prompts_never_repeat() -> None:
    """No prompt comes twice, so no cache can answer for the model."""
    drawn = list(prompts(random.Random(0)))
    assert len(drawn) == len(set(drawn)) > 500


def test_traffic_is_repeatable() -> None:
    """A suite asks the same with the same seed, and never the same prompt or image seed twice in a run."""
    one, other = FIRST.traffic(0), FIRST.traffic(0)
    batches = [next(one) for _ in range(10)]
    assert batches == [next(other) for _ in range(10)]
    asked = [request for batch in batches for request in batch]
    assert len({r.prompt for r in asked}) == len({r.seed for r in asked}) == len(asked)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_traffic_suffices(suite: Suite) -> None:
    """The prompts suffice for the trial and for all rounds, each with its warm-up."""
    needed = 1 + suite.rounds * (1 + max(suite.bursts, suite.quick_bursts))
    batches = list(suite.traffic(0))[:needed]
    assert [len(batch) for batch in batches] == [suite.arrivals.requests] * needed


def test_body_is_openai() -> None:
    """A request's body carries the fields of the OpenAI Images API and the server's extensions."""
    request = next(FIRST.traffic(0))[0]
    body = request.body("lego-tiny")
    assert body["size"] == "128x128"
    assert body["prompt"] == request.prompt
    assert set(body) == {"model", "prompt", "size", "num_inference_steps", "guidance_scale", "seed"}
