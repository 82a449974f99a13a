"""The comparison's arithmetic, and which runs it refuses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.prediction.comparison import BOUNDS, HIGHEST, RATIO, Bound, NotBlindError, check_blind, compare
from benchmarks.prediction.documents import Prediction, Run
from benchmarks.prediction.observation import Load, LoadFigures, Observation

PREDICTED_AT, COMMITTED_AT, BEGAN_AT = (f"2026-11-29T{hour}:00:00+00:00" for hour in ("10", "11", "12"))
DIGEST = "d" * 32


def figures(mean_s: float = 1.0, p95_s: float = 2.0, attainment: float = 0.9) -> LoadFigures:
    return LoadFigures(mean_s, mean_s, p95_s, attainment)


def observation(
    lego: LoadFigures | None = None, ratio: float | None = 1.5, highest: float | None = 3.0, plan: str = "p"
) -> Observation:
    loads = tuple(Load(factor, 3.0 * factor, figures(), lego or figures()) for factor in (0.5, 0.8, 1.0))
    return Observation("mixed", plan, 3.0, loads, {"baseline": 2.0, "lego": highest}, ratio, "highest rate")


def prediction(**changes: object) -> Prediction:
    made = Prediction(PREDICTED_AT, "abc", True, ("calibration",), ("mixed",), "f" * 32, {"mixed": observation()})
    return replace(made, **changes)  # type: ignore[arg-type]


def run(found: Observation | None = None, **changes: object) -> Run:
    return replace(Run(BEGAN_AT, True, DIGEST, found or observation(), {}), **changes)  # type: ignore[arg-type]


def verdict(found: Observation, what: str) -> bool:
    """Whether the first quantity of this name is within its bound."""
    return next(row.is_met for row in compare(prediction(), [run(found)]) if what in row.what)


def test_bounds_are_those_of_the_requirement() -> None:
    """Means 10 %, 95th percentiles 20 %, attainment 4 points, highest rates 10 %, ratios 8 %."""
    assert {name: str(bound) for name, bound in BOUNDS.items()} == {
        "mean_s": "10 %",
        "p95_s": "20 %",
        "attainment": "4 points",
        HIGHEST: "10 %",
        RATIO: "8 %",
    }


def test_every_quantity_of_a_suite_is_compared() -> None:
    """Three of both systems at each of three loads, two highest rates and a ratio; all as predicted pass."""
    rows = compare(prediction(), [run()])
    assert len(rows) == 3 * 2 * 3 + 3
    assert all(row.is_met and row.error == pytest.approx(0.0) for row in rows)


@pytest.mark.parametrize(
    ("found", "what", "is_met"),
    [
        (observation(figures(mean_s=1 / 1.099)), "lego at 0.5 of the limit: mean", True),
        (observation(figures(mean_s=1 / 1.101)), "lego at 0.5 of the limit: mean", False),
        (observation(figures(p95_s=2 / 0.801)), "lego at 0.8 of the limit: p95", True),
        (observation(figures(p95_s=2 / 0.799)), "lego at 0.8 of the limit: p95", False),
        (observation(figures(attainment=0.94)), "lego at 1 of the limit: attainment", True),
        (observation(figures(attainment=0.85)), "lego at 1 of the limit: attainment", False),
        (observation(highest=3.0 / 1.11), "lego: highest rate", False),
        (observation(ratio=1.5 / 1.07), RATIO, True),
        (observation(ratio=1.5 / 1.09), RATIO, False),
        (observation(highest=None), "lego: highest rate", False),
        (observation(ratio=None), RATIO, False),
    ],
)
def test_errors_are_relative_to_what_was_measured(found: Observation, what: str, is_met: bool) -> None:
    """Attainment errs in points; what one side alone has is not as predicted."""
    assert verdict(found, what) is is_met


def test_what_neither_has_is_as_predicted() -> None:
    """Such as a highest rate of a suite whose loads are all above it."""
    none = replace(observation(), highest_rps={"baseline": None, "lego": None}, ratio=None)
    rows = compare(prediction(suites={"mixed": none}), [run(none)])
    assert all(row.is_met for row in rows)


def test_ratios_of_different_quantities_are_not_compared() -> None:
    """A ratio of rates is none of goodput."""
    other = replace(observation(), ratio_of="answered in time at 0.7 of the limit")
    assert not verdict(other, RATIO)


def test_repeats_count_by_their_median() -> None:
    """One run of three that is far off does not matter."""
    runs = [run(observation(figures(mean_s=mean_s))) for mean_s in (1.0, 1.01, 9.0)]
    row = next(row for row in compare(prediction(), runs) if row.what == "lego at 0.5 of the limit: mean")
    assert (row.measured, row.is_met) == (1.01, True)


@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.booleans())
def test_an_error_says_how_far_above_what_was_measured_a_prediction_is(
    predicted: float, measured: float, is_relative: bool
) -> None:
    """Measured plus the error is the prediction."""
    error = Bound(0.1, is_relative).error(predicted, measured)
    assert measured + error * (measured if is_relative else 1.0) == pytest.approx(predicted)


def test_nothing_measured_is_infinitely_far_from_something() -> None:
    """And equal to nothing."""
    assert Bound(0.1).error(1.0, 0.0) == float("inf")
    assert Bound(0.1).error(0.0, 0.0) == 0.0


def test_a_blind_run_is_accepted() -> None:
    """It began after the prediction was committed, with its rates and its requests."""
    check_blind(prediction(), DIGEST, COMMITTED_AT, run())


@pytest.mark.parametrize(
    ("made", "committed", "measured", "words"),
    [
        (prediction(), COMMITTED_AT, run(observation(plan="q")), "sent other requests"),
        (prediction(), COMMITTED_AT, run(began_at="2026-11-29T09:00:00+00:00"), "was made at .* not before the run"),
        (prediction(), COMMITTED_AT, run(began_at="2026-11-29T10:30:00+00:00"), "was committed at"),
        (prediction(), COMMITTED_AT, run(began_at="2026-11-29T12:30:00+02:00"), "was committed at"),
        (prediction(), None, run(), "is not committed"),
        (prediction(), COMMITTED_AT, run(prediction_digest="e" * 32), "made with another prediction"),
        (prediction(), COMMITTED_AT, run(quick=False), "measured more"),
        (prediction(fitted_from=("mixed",)), COMMITTED_AT, run(), "held out, and the profile was fitted from it"),
        (prediction(suites={}), COMMITTED_AT, run(), "is not predicted"),
    ],
)
def test_a_run_that_is_no_test_is_refused(made: Prediction, committed: str | None, measured: Run, words: str) -> None:
    """Whatever its numbers are."""
    with pytest.raises(NotBlindError, match=words):
        check_blind(made, DIGEST, committed, measured)


def test_a_suite_that_is_not_held_out_may_have_been_fitted_from() -> None:
    """It is no blind test of the fit, and is told so by its place in the prediction."""
    check_blind(prediction(fitted_from=("mixed",), held_out=()), DIGEST, COMMITTED_AT, run())
