"""StepCost and PostDenoiseTime: what they predict from what they saw."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.costs import PostDenoiseTime, Rates, StepCost, StepWork, most_lanes

TRUE = Rates(row_s=5e-5, pair_s=1e-7, constant_s=6e-3)
SHAPES = [(136, 9_000), (272, 18_000), (1536, 150_000), (576, 166_000), (2304, 660_000)]


def seen(*steps: tuple[int, int, float], calibrated: Rates | None = None) -> StepCost:
    cost = StepCost(calibrated)
    for rows, pairs, took_s in steps:
        cost.observe(StepWork(rows, pairs), took_s)
    return cost


def test_nothing_seen_predicts_nothing() -> None:
    """Before the first step the prediction is zero."""
    assert StepCost().seconds(StepWork(100, 1000)) == 0.0


def test_the_calibrated_rates_hold_until_a_step_is_seen() -> None:
    """A cost that was calibrated predicts from the first."""
    assert StepCost(TRUE).rates == TRUE


def test_the_three_rates_are_found() -> None:
    """Steps of a constant, so much a row and so much a pair are predicted, between and beyond those seen."""
    cost = seen(*[(r, p, TRUE.seconds(r, p)) for r, p in SHAPES * 4])
    for rows, pairs in ((500, 40_000), (5000, 2_000_000)):
        assert cost.seconds(StepWork(rows, pairs)) == pytest.approx(TRUE.seconds(rows, pairs), rel=0.02)


RATES = st.builds(Rates, st.floats(1e-7, 1e-3), st.floats(0, 1e-7), st.floats(0, 0.05))
WORKS = st.builds(StepWork, st.integers(1, 5000), st.integers(0, 10**6))


@given(work=WORKS, rates=RATES, max_s=st.floats(1e-3, 2), max_rows=st.none() | st.integers(1, 10**5))
def test_so_many_lanes_fit_a_step_and_no_more(work: StepWork, rates: Rates, max_s: float, max_rows: int | None) -> None:
    """One more would break the limit of rows or of seconds; a lane alone may break both."""
    count = most_lanes(work, rates, max_s, max_rows)
    assert count is not None

    def seconds(lanes: int) -> float:
        return rates.seconds(lanes * work.rows, lanes * work.pairs)

    above_rows = max_rows is not None and (count + 1) * work.rows > max_rows
    assert above_rows or seconds(count + 1) >= max_s * (1 - 1e-9)
    if count > 1:
        assert seconds(count) <= max_s * (1 + 1e-9)
        assert max_rows is None or count * work.rows <= max_rows


@pytest.mark.parametrize(("rates", "max_s"), [(Rates(), 0.0), (Rates(), 1.0), (TRUE, float("inf"))])
def test_without_rates_or_a_limit_of_seconds_rows_alone_bound_a_step(rates: Rates, max_s: float) -> None:
    """And without either nothing does."""
    assert most_lanes(StepWork(100, 10), rates, max_s, 250) == 2
    assert most_lanes(StepWork(100, 10), rates, max_s, None) is None


def test_steps_of_one_shape_keep_to_the_calibrated_proportions() -> None:
    """Where one shape leaves the rates open, a machine twice as slow is predicted about twice as slow there."""
    cost = seen(*[(768, 73_000, 2 * TRUE.seconds(768, 73_000))] * 50, calibrated=TRUE)
    assert cost.seconds(StepWork(768, 73_000)) == pytest.approx(2 * TRUE.seconds(768, 73_000), rel=0.02)


def test_late_steps_weigh_more() -> None:
    """After the machine has slowed down, the prediction follows."""
    cost = seen(*[(50, 500, 0.1)] * 100, *[(50, 500, 0.2)] * 200)
    assert cost.seconds(StepWork(50, 500)) == pytest.approx(0.2, rel=0.01)


def test_a_step_of_no_time_says_nothing() -> None:
    """A clock too coarse to see a step leaves the rates as they were."""
    assert seen((10, 10, 0.0), calibrated=TRUE).rates == TRUE


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.integers(1, 10**7), st.floats(0, 100)), max_size=30),
    st.integers(1, 10_000),
)
def test_a_prediction_is_never_negative(steps: list[tuple[int, int, float]], rows: int) -> None:
    """Whatever was seen, no step is promised to take less than no time, and more work never takes less."""
    cost = seen(*steps)
    assert 0 <= cost.seconds(StepWork(rows, rows)) <= cost.seconds(StepWork(rows + 1, rows + 1))


def test_nothing_is_expected_of_an_unknown_workflow() -> None:
    """Zero, so that a lane has all the time there is."""
    assert PostDenoiseTime().of("text-to-image") == 0.0


def test_what_is_expected_follows_what_jobs_take() -> None:
    """The first job says all; each later one moves it, by workflow."""
    times = PostDenoiseTime()
    times.learn("a", 0.4)
    assert times.of("a") == pytest.approx(0.4)
    for _ in range(50):
        times.learn("a", 1.0)
    assert times.of("a") == pytest.approx(1.0, abs=1e-3)
    assert times.of("b") == 0.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_what_is_expected_lies_between_what_jobs_took(seconds: list[float]) -> None:
    """Whatever the order of the jobs."""
    times = PostDenoiseTime()
    for took_s in seconds:
        times.learn("a", took_s)
    assert min(seconds) <= times.of("a") * (1 + 1e-9)
    assert times.of("a") <= max(seconds) * (1 + 1e-9)
