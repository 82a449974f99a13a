"""Finds the grids of a model: a shift for each number of evaluations, then a planned grid where it comes nearer.

Both are held against the model's own images with all of their steps.  The shift is the control that a plan has to
beat: most of what a cache or a plan seems to gain is a schedule that suits the number of evaluations.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lego_serve.core.tiers.grids import Grid, plan_grid, shifted_sigmas
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.tuning.trajectories import Calibration, Trajectory, ends_on, trajectories

SHIFTS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
EVEN = ", even to the end"  # in the names of grids whose last step is as long as the others, before they are shifted
COMPARED = 4  # images that candidates are held against; the plan itself is made from all
LEAST_GAIN_DB = 1.5  # a plan that gains less over the tuned shift is not worth its own table


@dataclass(frozen=True, slots=True)
class Candidate:
    """A grid that was tried, and how near its latents come to those of all steps: the mean PSNR, in decibels."""

    name: str
    grid: Grid
    likeness_db: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for a number of evaluations: the best shift, and the plan."""

    shifted: Candidate
    planned: Candidate

    @property
    def chosen(self) -> Candidate:
        """The plan, where it comes nearer by enough; else the shift."""
        gain_db = self.planned.likeness_db - self.shifted.likeness_db
        return self.planned if gain_db >= LEAST_GAIN_DB else self.shifted


def tune_grids(
    pipeline: OfflinePipeline,
    images: Calibration,
    steps: int,
    evaluations: Sequence[int],
    sampler: str = "euler",
    shifts: Sequence[float] = SHIFTS,
) -> dict[int, Tuned]:
    """Return what was found by number of evaluations, of which each is fewer than ``steps``.  Raises LegoError."""
    lanes = images.lanes(pipeline, steps, sampler)
    passed = trajectories(pipeline, lanes)
    sigmas = passed[0].sigmas
    costs = jump_costs(passed)
    compared, targets = lanes[:COMPARED], [one.latents[-1] for one in passed[:COMPARED]]

    def tried(name: str, grid: Grid) -> Candidate:
        return Candidate(name, grid, _mean_psnr(ends_on(pipeline, compared, {name: grid})[name], targets))

    found = {}
    for count in evaluations:
        planned = Grid(sampler, tuple(sigmas[index] for index in plan_grid(costs, count)))
        found[count] = Tuned(best_shift(sampler, count, shifts, tried), tried("planned", planned))
    return found


def best_shift(
    sampler: str, evaluations: int, shifts: Sequence[float], tried: Callable[[str, Grid], Candidate]
) -> Candidate:
    """Return the best grid of one shift: even times down to 1/1000, as SD3 has them, or to 1/n, as FLUX does.

    ``shifts`` rise, and likeness over them has one top; it is climbed from the middle, which saves most of the trials.
    """

    def of(index: int, last: float, form: str = "") -> Candidate:
        return tried(f"shift {shifts[index]:g}{form}", Grid(sampler, shifted_sigmas(evaluations, shifts[index], last)))

    at = len(shifts) // 2
    best = of(at, 1 / 1000)
    for direction in (1, -1):
        is_up = False
        while 0 <= at + direction < len(shifts):
            following = of(at + direction, 1 / 1000)
            if following.likeness_db <= best.likeness_db:
                break
            best, at, is_up = following, at + direction, True
        if is_up:
            break
    return max(best, of(at, 1 / evaluations, EVEN), key=lambda each: each.likeness_db)


def jump_costs(passed: Sequence[Trajectory]) -> list[list[float]]:
    """Return the cost of an Euler step from each point of fine trajectories to each later one.

    It is the mean square, over images, of x_k - x_j - (s_k - s_j) v_j; squares, so that no single jump is long.
    """
    steps = len(passed[0].velocities)
    costs = [[0.0] * (steps + 1) for _ in range(steps + 1)]
    for one in passed:
        for j in range(steps):
            for k in range(j + 1, steps + 1):
                jump = (one.sigmas[k] - one.sigmas[j]) * one.velocities[j]
                missed = one.latents[k] - one.latents[j] - jump
                costs[j][k] += float(missed.square().mean()) / len(passed)
    return costs


def _mean_psnr(latents: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> float:
    """Return the mean PSNR of latents, by the range of each target."""
    return sum(map(_psnr, latents, targets)) / len(targets)


def _psnr(latents: torch.Tensor, target: torch.Tensor) -> float:
    error = float((latents - target).square().mean())
    span = float(target.max() - target.min())
    return math.inf if error == 0 else 10 * math.log10(span * span / error)
