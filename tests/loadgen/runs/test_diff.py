import random

import numpy as np
import pytest

from loadgen.runs.bootstrap import block_indices, interval, resampled_means
from loadgen.runs.diff import compare_limits, compare_runs
from loadgen.runs.limit import Trial
from loadgen.runs.outcome import Outcome


def run(seed: int, scale: float = 1.0, failures: float = 0.0, count: int = 400) -> list[Outcome]:
    rng = random.Random(seed)
    found = []
    for index in range(count):
        error = "503: full" if rng.random() < failures else None
        latency_s = scale * rng.uniform(0.5, 1.5)
        found.append(Outcome(index, index, index + latency_s, 503 if error else 200, error, "w", "generation", "", 1.4))
    return found


def verdicts(a: list[Outcome], b: list[Outcome], is_paired: bool = False) -> dict[str, str]:
    return {each.metric: each.verdict for each in compare_runs(a, b, 0.05, 0, is_paired=is_paired)}


def test_slower_runs_are_worse_and_faster_ones_better() -> None:
    """Half as slow again is worse in every latency and in attainment; the other way round it is better."""
    found = verdicts(run(1), run(2, 1.5))
    assert {found[name] for name in ("attainment", "mean", "p50", "p95", "p99", "goodput")} == {"worse"}
    back = verdicts(run(2, 1.5), run(1))
    assert {back[name] for name in ("attainment", "mean", "p95")} == {"better"}


def test_equal_runs_are_never_worse() -> None:
    """Two draws of one run differ by chance alone, which is not called worse."""
    for seed in range(2):
        assert "worse" not in verdicts(run(seed), run(seed + 100)).values()
    assert set(verdicts(run(1), run(1), is_paired=True).values()) == {"alike"}


def test_paired_runs_see_smaller_differences() -> None:
    """Resampling the same requests of both finds a difference that two unpaired runs cannot tell from chance."""
    a = run(1)
    b = [Outcome(o.due_s, o.sent_s, o.due_s + 1.08 * o.latency_s, 200, None, "w", "generation", "", 1.4) for o in a]
    paired = {each.metric: each for each in compare_runs(a, b, 0.05, 0, is_paired=True)}["mean"]
    unpaired = {each.metric: each for each in compare_runs(a, b, 0.05, 0, is_paired=False)}["mean"]
    assert paired.verdict == "worse"
    assert unpaired.verdict != "worse"
    assert paired.low <= 0.08 <= paired.high


def test_failures_are_worse_however_fast() -> None:
    """A server that refuses a fifth of the requests is worse, although its answers are as fast."""
    found = verdicts(run(1), run(2, failures=0.2))
    assert (found["failures"], found["mean"], found["attainment"]) == ("worse", "worse", "worse")


def test_highest_rates_are_compared() -> None:
    """Of two sweeps the one that bears three quarters of the rate is worse."""

    def trials(limit: float) -> list[Trial]:
        rng = random.Random(0)
        rates = [limit * factor for factor in (0.7, 0.9, 1.0, 1.1, 1.3)]
        share = {rate: 1 - 0.1 * (rate / limit) ** 4 for rate in rates}
        return [Trial(rate, r, [rng.random() < share[rate] for _ in range(300)]) for rate in rates for r in range(3)]

    rng = np.random.default_rng(0)
    found = compare_limits(trials(4.0), trials(3.0), 0.9, 0.05, rng)
    assert found.verdict == "worse"
    assert found.change == pytest.approx(-0.25, abs=0.05)
    assert compare_limits(trials(4.0), trials(4.0), 0.9, 0.05, rng).verdict in ("alike", "unclear")


def test_blocks_keep_neighbours_together() -> None:
    """Resampling in blocks widens the interval where neighbours are alike, as they are in a queue."""
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.random(40), 25)
    shuffled = rng.permutation(alike)
    widths = [np.ptp(interval(resampled_means(values, 500, rng))) for values in (alike, shuffled)]
    assert widths[0] > 2 * widths[1]
    indices = block_indices(1000, rng)
    assert len(indices) == 1000
    assert np.mean(np.diff(indices) % 1000 == 1) > 0.9
