"""Compares a prediction with the runs that test it: errors, bounds, and whether the test was blind at all.

Several runs of one suite are repeats: the median of what they measured counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks.prediction.documents import Prediction, Run
from benchmarks.prediction.observation import SYSTEMS, LoadFigures, Observation
from benchmarks.prediction.suites import FACTORS
from loadgen.stats import median

HIGHEST, RATIO = "highest rate", "ratio, lego over baseline"


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that a prediction may err: a share of what was measured, or so much of the quantity itself."""

    most: float
    is_relative: bool = True

    def error(self, predicted: float, measured: float) -> float:
        """Return the error, with its sign; relative to nothing it is infinite."""
        if not self.is_relative:
            return predicted - measured
        if measured == 0.0:
            return 0.0 if predicted == 0.0 else float("inf")
        return predicted / measured - 1.0

    def __str__(self) -> str:
        return f"{100 * self.most:g} {'%' if self.is_relative else 'points'}"


BOUNDS: Mapping[str, Bound] = {
    "mean_s": Bound(0.10),
    "p95_s": Bound(0.20),
    "attainment": Bound(0.04, is_relative=False),
    HIGHEST: Bound(0.10),
    RATIO: Bound(0.08),
}
SLACK = 1e-9  # of arithmetic


class NotBlindError(ValueError):
    """The run cannot test the prediction."""


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: predicted, measured, the error and its bound; None where there is no such quantity."""

    suite: str
    what: str
    predicted: float | None
    measured: float | None
    error: float | None
    bound: str
    is_met: bool


def check_blind(prediction: Prediction, digest: str, committed_at: str | None, run: Run) -> None:
    """Raise NotBlindError for a run that does not test this prediction.

    ``digest``: of the prediction's file.  ``committed_at``: when it was committed as it is; None if it is not.
    """
    suite = run.observation.suite
    predicted = prediction.suites.get(suite)
    if predicted is None:
        raise NotBlindError(f"suite {suite} is not predicted; there is {', '.join(sorted(prediction.suites))}")
    if suite in prediction.held_out and suite in prediction.fitted_from:
        raise NotBlindError(f"suite {suite} is held out, and the profile was fitted from it; fit one without it")
    if run.prediction_digest != digest:
        raise NotBlindError(
            f"the run of {suite} was made with another prediction ({run.prediction_digest}, not {digest})"
        )
    if run.quick != prediction.quick:
        raise NotBlindError(f"the run of {suite} measured {'less' if run.quick else 'more'} than was predicted")
    if run.observation.plan != predicted.plan:
        raise NotBlindError(
            f"the run of {suite} sent other requests than were predicted: plan {run.observation.plan}, "
            f"predicted {predicted.plan}; predict again with the code that runs"
        )
    if committed_at is None:
        raise NotBlindError("the prediction is not committed as it is; commit it, then run")
    for words, at in (("was made", prediction.predicted_at), ("was committed", committed_at)):
        if datetime.fromisoformat(run.began_at) <= datetime.fromisoformat(at):
            raise NotBlindError(
                f"the run of {suite} began at {run.began_at}, and the prediction {words} at {at}: not before the run"
            )


def compare(prediction: Prediction, runs: Sequence[Run]) -> list[Row]:
    """Return all quantities of the suites that were run, in the order of the runs."""
    rows = []
    for suite in dict.fromkeys(run.observation.suite for run in runs):
        repeats = [run.observation for run in runs if run.observation.suite == suite]
        rows += _compare_suite(prediction.suites[suite], repeats)
    return rows


def _compare_suite(predicted: Observation, repeats: Sequence[Observation]) -> list[Row]:
    rows = []
    for factor in FACTORS:
        for system in SYSTEMS:
            below = predicted.at(factor).of(system)
            above = [each.at(factor).of(system) for each in repeats]
            for name in ("mean_s", "p95_s", "attainment"):
                what = f"{system} at {factor:g} of the limit: {name.removesuffix('_s')}"
                rows.append(
                    _row(predicted.suite, what, BOUNDS[name], _value(below, name), [_value(a, name) for a in above])
                )
    for system in SYSTEMS:
        found = [each.highest_rps[system] for each in repeats]
        rows.append(
            _row(predicted.suite, f"{system}: {HIGHEST}", BOUNDS[HIGHEST], predicted.highest_rps[system], found)
        )
    what = f"{RATIO}: {predicted.ratio_of}"
    same = [each.ratio if each.ratio_of == predicted.ratio_of else None for each in repeats]
    return [*rows, _row(predicted.suite, what, BOUNDS[RATIO], predicted.ratio, same)]


def _value(figures: LoadFigures, name: str) -> float:
    return float(getattr(figures, name))


def _row(suite: str, what: str, bound: Bound, predicted: float | None, repeats: Sequence[float | None]) -> Row:
    """Return a row; nothing on both sides is as predicted, on one side alone it is not."""
    known = [each for each in repeats if each is not None]
    measured = median(known) if len(known) > len(repeats) / 2 else None
    if predicted is None or measured is None:
        return Row(suite, what, predicted, measured, None, str(bound), predicted is None and measured is None)
    error = bound.error(predicted, measured)
    return Row(suite, what, predicted, measured, error, str(bound), abs(error) <= bound.most + SLACK)
