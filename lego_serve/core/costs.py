"""Predicts the seconds of a step: ``constant + rows * row + pairs * pair``, calibrated, then refined by every step.

Rows are the token rows that pass the linear layers, pairs the query-key pairs of attention: a ragged transformer
pass is linear in these two amounts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MEMORY = 0.95  # factor by which each new step reduces the weight of earlier ones
TRUST = 1e-3  # strength of the pull towards the calibrated rates, relative to the observations
KILO, MEGA = 1e3, 1e6  # units of rows and pairs in the fit, which keep its equations well scaled


@dataclass(frozen=True, slots=True)
class StepWork:
    """The work of a lane, or of a whole plan, in one step: token rows and query-key pairs."""

    rows: int
    pairs: int

    def __add__(self, other: "StepWork") -> "StepWork":
        return StepWork(self.rows + other.rows, self.pairs + other.pairs)


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds per row, per pair, and of an empty step; none is negative."""

    row_s: float = 0.0
    pair_s: float = 0.0
    constant_s: float = 0.0

    def seconds(self, rows: int, pairs: int) -> float:
        """Return the predicted seconds of one step."""
        return self.constant_s + rows * self.row_s + pairs * self.pair_s


def most_lanes(work: StepWork, rates: Rates, max_s: float, max_rows: int | None) -> int | None:
    """Return how many lanes of this work one step of so many seconds and rows takes; None where nothing bounds it.

    It is one at least, for a lane that is alone runs whatever it takes.
    """
    bounds = [] if max_rows is None else [max_rows // work.rows]
    lane_s = work.rows * rates.row_s + work.pairs * rates.pair_s
    if lane_s > 0 and math.isfinite(max_s):
        bounds.append(int((max_s - rates.constant_s) / lane_s))
    return max(1, min(bounds)) if bounds else None


class StepCost:
    """The rates of one replica: a least-squares fit, in relative error, of its steps; recent steps weigh most.

    If all steps had one shape, which leaves the rates undetermined, the fit stays near the calibrated rates.
    """

    def __init__(self, calibrated: Rates | None = None) -> None:
        start = calibrated or Rates()
        self._prior = (start.row_s * KILO, start.pair_s * MEGA, start.constant_s)
        self._squares = [0.0] * 6  # left side of the normal equations: rr, rp, rc, pp, pc, cc
        self._answers = [0.0] * 3  # right side: r, p, c
        self._rates: Rates | None = start

    @property
    def rates(self) -> Rates:
        """The current rates; zeros before any step or calibration."""
        if self._rates is None:
            self._rates = self._fit()
        return self._rates

    def observe(self, work: StepWork, took_s: float) -> None:
        """Add a step to the fit; a step of no measured time is ignored."""
        if took_s <= 0:
            return
        # Divided by the seconds taken, so that the fit minimises relative errors: small steps count like large ones.
        r, p, c = work.rows / KILO / took_s, work.pairs / MEGA / took_s, 1 / took_s
        squares, answers = self._squares, self._answers
        for index, new in enumerate((r * r, r * p, r * c, p * p, p * c, c * c)):
            squares[index] = MEMORY * squares[index] + new
        for index, new in enumerate((r, p, c)):
            answers[index] = MEMORY * answers[index] + new
        self._rates = None

    def seconds(self, work: StepWork) -> float:
        """Return the predicted seconds of a step; 0 before any step or calibration."""
        return self.rates.seconds(work.rows, work.pairs)

    def _fit(self) -> Rates:
        rr, rp, rc, pp, pc, cc = self._squares
        rows = [[rr, rp, rc], [rp, pp, pc], [rc, pc, cc]]
        answers = list(self._answers)
        for i in range(3):
            pull = TRUST * rows[i][i] + 1e-12
            answers[i] += pull * self._prior[i]
            rows[i][i] += pull
        row, pair, constant = _solve_three(rows, answers)
        if row >= 0 and pair >= 0 and constant >= 0:
            return Rates(row / KILO, pair / MEGA, constant)
        free = [0, 1, 2]
        del free[min(free, key=(row, pair, constant).__getitem__)]
        while free:
            solution = _solve([[rows[i][j] for j in free] for i in free], [answers[i] for i in free])
            if min(solution) >= 0:
                values = dict(zip(free, solution, strict=True))
                return Rates(values.get(0, 0.0) / KILO, values.get(1, 0.0) / MEGA, values.get(2, 0.0))
            del free[solution.index(min(solution))]  # a negative rate becomes 0 and the others are fitted again
        return Rates()


def _solve_three(rows: Sequence[Sequence[float]], answers: Sequence[float]) -> tuple[float, float, float]:
    """Solve three equations by the elimination of ``_solve``, unrolled because it runs after every step."""
    (rr, rp, rc), (_, pp, pc), (_, _, cc) = rows
    r, p, c = answers
    below, last = rp / rr, rc / rr
    pp, pc, p = pp - below * rp, pc - below * rc, p - below * r
    cc, c = cc - last * rc, c - last * r
    below = pc / pp
    constant = (c - below * p) / (cc - below * pc)
    pair = (p - pc * constant) / pp
    return (r - rp * pair - rc * constant) / rr, pair, constant


def _solve(rows: Sequence[Sequence[float]], answers: Sequence[float]) -> list[float]:
    """Solve a small positive definite system by Gaussian elimination."""
    size = len(answers)
    work = [[*row, answer] for row, answer in zip(rows, answers, strict=True)]
    for i in range(size):
        for k in range(i + 1, size):
            factor = work[k][i] / work[i][i]
            work[k] = [a - factor * b for a, b in zip(work[k], work[i], strict=True)]
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(work[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (work[i][size] - known) / work[i][i]
    return solution


TAIL_MEMORY = 0.8  # weight of the running mean against each new job


class PostDenoiseTime:
    """Recent mean seconds from the end of a job's denoising to the end of the job, by workflow."""

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def of(self, workflow: str) -> float:
        """Return the expected seconds of a workflow; 0 before its first job."""
        return self._mean_s.get(workflow, 0.0)

    def learn(self, workflow: str, took_s: float) -> None:
        """Add the seconds that a job of a workflow took."""
        self._mean_s[workflow] = TAIL_MEMORY * self._mean_s.get(workflow, took_s) + (1 - TAIL_MEMORY) * took_s
