import pytest

from loadgen.client import Reply, Sample
from loadgen.mixed.objective import Attainment, Objective, Tally, TimedRun, attainment, fit, latencies_s, solo_grid
from loadgen.mixed.plan import MIXED
from loadgen.summary import NoImagesError
from loadgen.traffic import ImageRequest
from tests.support.loadgen.simulated import IMAGE, cost_s


def alone(speed: float = 1.0) -> list[Sample]:
    return [Sample(0.0, 1.0, 1.0 + cost_s(request) / speed, Reply(IMAGE)) for request in solo_grid(MIXED)]


def fitted(repeats: list[list[Sample]]) -> Objective:
    return fit(solo_grid(MIXED), repeats, 5.0)


def request(width: int, height: int, steps: int = 17, guidance: float = 4.0) -> ImageRequest:
    return ImageRequest("a circle", width, height, steps, guidance, 1)


def timed(size: int, seconds: list[float | None]) -> TimedRun:
    """Requests due one second apart, answered after so many seconds, or refused at once."""
    samples = [
        Sample(i, i, i + (0.0 if each is None else each), Reply(None if each is None else IMAGE, "429"))
        for i, each in enumerate(seconds)
    ]
    return TimedRun([request(size, size)] * len(samples), samples)


@pytest.mark.parametrize("steps", [8, 13, 28])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_objective_follows_cost(steps: int, guidance: float) -> None:
    """The objective of any steps is five times the solo time, though only two step counts were measured."""
    asked = request(192, 160, steps, guidance)
    assert fitted([alone()]).slo_s(asked) == pytest.approx(5 * cost_s(asked))


def test_every_size_has_an_objective() -> None:
    """The grid covers each size of the suite, turned or not, with and without guidance."""
    objective = fitted([alone()])
    for kind in MIXED.classes:
        for width, height in kind.sizes:
            assert objective.slo_s(request(width, height)) == objective.slo_s(request(height, width)) > 0
            assert objective.slo_s(request(width, height, guidance=1.0)) < objective.slo_s(request(width, height))


def test_slow_repeat_does_not_relax() -> None:
    """A repeat that was disturbed does not lengthen the objective."""
    calm = fitted([alone()])
    asked = request(128, 128)
    assert fitted([alone(), alone(0.1)]).slo_s(asked) == pytest.approx(calm.slo_s(asked))
    assert fitted([alone(0.5), alone(), alone(2.0)]).slo_s(asked) == pytest.approx(calm.slo_s(asked))


def test_no_solo_image() -> None:
    """A baseline that cannot make an image alone is an error that quotes it."""
    refused = [Sample(0.0, 0.0, 0.1, Reply(None, "500: broken")) for _ in solo_grid(MIXED)]
    with pytest.raises(NoImagesError, match="broken"):
        fitted([refused])


def test_misses_count() -> None:
    """Late, failed and refused requests are misses alike, however soon the refusal came."""
    reached = attainment(timed(128, [1.0, 1.9, 2.1, None]), lambda _: 2.0, MIXED)
    assert reached.classes["small"] == Tally(2, 4)
    assert reached.ratio == 0.5
    assert reached.failures == 1


def test_latency_counts_from_due() -> None:
    """A request that the client sent late is as late as it was for its user."""
    late = TimedRun([request(128, 128)], [Sample(1.0, 3.0, 4.0, Reply(IMAGE))])
    assert attainment(late, lambda _: 2.0, MIXED).ratio == 0.0
    assert latencies_s(late, lambda _: 2.0) == [3.0]


def test_class_floor() -> None:
    """Nine tenths overall are not enough when one size class is starved."""
    well = {"small": Tally(50, 50), "middle": Tally(40, 40)}
    assert Attainment({**well, "large": Tally(8, 10)}, 0).is_enough(0.9, 0.75)
    starved = Attainment({**well, "large": Tally(7, 10)}, 0)
    assert starved.ratio > 0.9
    assert not starved.is_enough(0.9, 0.75)


def test_overall_floor() -> None:
    """No class under its floor is not enough when the whole is."""
    assert not Attainment({"small": Tally(8, 10), "large": Tally(9, 10)}, 0).is_enough(0.9, 0.75)


def test_class_nobody_asked_for() -> None:
    """A class without requests fails nobody."""
    assert Attainment({"small": Tally(10, 10), "large": Tally(0, 0)}, 0).is_enough(0.9, 0.75)


def test_dropping_does_not_shorten_latency() -> None:
    """A dropped request counts as waiting to the end of the run, and for its objective at least."""
    assert latencies_s(timed(128, [9.0, None, 1.0]), lambda _: 2.0) == [9.0, 8.0, 1.0]
    assert latencies_s(timed(128, [1.0, None]), lambda _: 2.0) == [1.0, 2.0]
