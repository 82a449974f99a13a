import random
from itertools import pairwise

import pytest

from loadgen.runs.arrivals import CONSTANT, GAMMA, KINDS, ON_OFF, Gamma, OnOff, Pattern


def cv(times: list[float]) -> float:
    gaps = [after - before for before, after in pairwise([0.0, *times])]
    mean = sum(gaps) / len(gaps)
    return float((sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean)


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_offers_its_rate(kind: str) -> None:
    """All arrivals ascend and have the mean rate that is asked for, however bursty they are."""
    times = Pattern(kind, cv=3.0, on_s=2.0, off_s=3.0).at(4000, 8.0).times_s(random.Random(0))
    assert times == sorted(times)
    assert len(times) == 4000
    assert times[-1] == pytest.approx(500.0, rel=0.02)


@pytest.mark.parametrize("wanted", [0.2, 1.0, 4.0])
def test_gamma_gaps_have_their_cv(wanted: float) -> None:
    """Gamma gaps spread as widely as they are told."""
    assert cv(Gamma(20_000, 2.0, wanted).times_s(random.Random(1))) == pytest.approx(wanted, rel=0.08)


def test_bursts_and_silence_take_turns() -> None:
    """Nothing is due between two bursts, and the bursts are as long as told."""
    times = OnOff(5000, 10.0, on_s=4.0, off_s=6.0).times_s(random.Random(2))
    assert all(time % 10.0 <= 4.0 for time in times)
    assert len(times) / times[-1] == pytest.approx(10.0, rel=0.05)


def test_patterns_scale_with_the_rate() -> None:
    """The same chance at twice the rate is the same pattern in half the time, but for the spans of bursts."""
    for kind in (GAMMA, CONSTANT):
        slow, fast = (Pattern(kind).at(50, rate).times_s(random.Random(3)) for rate in (1.0, 2.0))
        assert slow == pytest.approx([2 * time for time in fast])
    assert Pattern(ON_OFF).at(5, 1.0).times_s(random.Random(3)) == Pattern(ON_OFF).at(5, 1.0).times_s(random.Random(3))


def test_unknown_arrivals() -> None:
    """An unknown kind is an error that says what there is."""
    with pytest.raises(ValueError, match="poisson, gamma, onoff, constant"):
        Pattern("daily").at(1, 1.0)
