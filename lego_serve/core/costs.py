"""What a step takes: ``constant + rows * row + pairs * pair`` seconds, calibrated at first and refined with every step.

Rows are the token rows that pass the linear layers, pairs the query-key pairs of attention: the two
amounts a ragged transformer pass is linear in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MEMORY = 0.95  # weight an earlier step keeps with each step that follows
TRUST = 1e-3  # pull towards the calibrated rates, relative to what has been seen
KILO, MEGA = 1e3, 1e6  # rows and pairs are counted in these, so that the equations are well scaled


@dataclass(frozen=True, slots=True)
class StepWork:
    """What a lane, or a whole plan, brings to one step."""

    rows: int
    pairs: int

    def __add__(self, other: "StepWork") -> "StepWork":
        return StepWork(self.rows + other.rows, self.pairs + other.pairs)


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds a row, a pair, and a step that does nothing; none is negative."""

    row_s: float = 0.0
    pair_s: float = 0.0
    constant_s: float = 0.0

    def seconds(self, rows: int, pairs: int) -> float:
        """Predicted seconds of one step."""
        return self.constant_s + rows * self.row_s + pairs * self.pair_s


class StepCost:
    """The rates of one replica: a least-squares fit, in relative terms, of the steps seen, the latest weighing most.

    Where steps of one shape leave the rates open, those closest to the calibrated ones are taken.
    """

    def __init__(self, calibrated: Rates | None = None) -> None:
        start = calibrated or Rates()
        self._prior = (start.row_s * KILO, start.pair_s * MEGA, start.constant_s)
        self._squares = [0.0] * 6  # of the normal equations: rr, rp, rc, pp, pc, cc
        self._answers = [0.0] * 3
        self._rates: Rates | None = start

    @property
    def rates(self) -> Rates:
        """The rates as known now; zeros while nothing has been seen or calibrated."""
        if self._rates is None:
            self._rates = self._fit()
        return self._rates

    def observe(self, work: StepWork, took_s: float) -> None:
        """Take note of a step; one that took no time says nothing."""
        if took_s <= 0:
            return
        # Divided by the seconds taken: small steps are to be predicted as well as large ones, in proportion.
        r, p, c = work.rows / KILO / took_s, work.pairs / MEGA / took_s, 1 / took_s
        squares, answers = self._squares, self._answers
        for index, new in enumerate((r * r, r * p, r * c, p * p, p * c, c * c)):
            squares[index] = MEMORY * squares[index] + new
        for index, new in enumerate((r, p, c)):
            answers[index] = MEMORY * answers[index] + new
        self._rates = None

    def seconds(self, work: StepWork) -> float:
        """Predicted seconds of a step; 0 while nothing is known."""
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
            found = _solve([[rows[i][j] for j in free] for i in free], [answers[i] for i in free])
            if min(found) >= 0:
                values = dict(zip(free, found, strict=True))
                return Rates(values.get(0, 0.0) / KILO, values.get(1, 0.0) / MEGA, values.get(2, 0.0))
            del free[found.index(min(found))]  # a rate below nothing is nothing; the others make up for it
        return Rates()


def _solve_three(rows: Sequence[Sequence[float]], answers: Sequence[float]) -> tuple[float, float, float]:
    """The same elimination as in ``_solve``, written out: this one runs after every step."""
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
    """Gauss's elimination for a small positive definite system."""
    size = len(answers)
    work = [[*row, answer] for row, answer in zip(rows, answers, strict=True)]
    for i in range(size):
        for k in range(i + 1, size):
            factor = work[k][i] / work[i][i]
            work[k] = [a - factor * b for a, b in zip(work[k], work[i], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        known = sum(work[i][j] * found[j] for j in range(i + 1, size))
        found[i] = (work[i][size] - known) / work[i][i]
    return found


TAIL_MEMORY = 0.8  # weight what was known keeps with each job


class PostDenoiseTime:
    """Seconds from the last denoising of a job to its end, by workflow, as jobs took lately."""

    def __init__(self) -> None:
        self._known_s: dict[str, float] = {}

    def of(self, workflow: str) -> float:
        """Seconds to expect; 0 while nothing is known."""
        return self._known_s.get(workflow, 0.0)

    def learn(self, workflow: str, took_s: float) -> None:
        """Take note of a job."""
        self._known_s[workflow] = TAIL_MEMORY * self._known_s.get(workflow, took_s) + (1 - TAIL_MEMORY) * took_s
