"""Tuning: what is measured of a model's trajectories, and what is made of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.tiers.grids import Grid, plan_grid
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.registry import ModelSpec
from lego_serve.tuning.grid_search import EVEN, SHIFTS, Candidate, Tuned, best_shift, jump_costs, tune_grids
from lego_serve.tuning.quality import Row, measure, table
from lego_serve.tuning.trajectories import Calibration, Trajectory, ends, trajectories

STEPS = 6
IMAGES = Calibration(("a red circle", "a blue square"), 96, 96, 4.0)


@pytest.fixture(scope="module")
def pipeline() -> OfflinePipeline:
    """The model that ships: random weights have no trajectories worth planning on."""
    return OfflinePipeline.load(ModelSpec("m", "builtin:lego-tiny", dtype="float32", max_sequence_length=0))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_trajectory_has_the_velocities_that_the_model_gave(pipeline: OfflinePipeline, sampler: str) -> None:
    """Under Euler's method they are the slopes between its points."""
    lanes = IMAGES.lanes(pipeline, STEPS, sampler)
    passed = trajectories(pipeline, lanes)
    assert all(len(one.latents) == STEPS + 1 == len(one.velocities) + 1 for one in passed)
    assert all(torch.equal(one.latents[-1], end) for one, end in zip(passed, ends(pipeline, lanes), strict=True))
    if sampler == "euler":
        one = passed[0]
        slope = (one.latents[3] - one.latents[2]) / (one.sigmas[3] - one.sigmas[2])
        assert torch.allclose(slope, one.velocities[2], atol=1e-4)


def test_a_jump_costs_what_it_misses_of_the_fine_steps() -> None:
    """Nothing where the velocity does not change, and for a single step of Euler's."""
    sigmas = (1.0, 0.6, 0.1, 0.0)
    velocity = torch.ones(2, 3, 3)
    straight = Trajectory(sigmas, [velocity * (sigma - 1) for sigma in sigmas], [velocity] * 3)
    assert max(map(max, jump_costs([straight]))) < 1e-12
    bent = Trajectory(sigmas, straight.latents, [velocity, 2 * velocity, velocity])
    costs = jump_costs([bent])
    assert costs[1][3] == pytest.approx(0.36)  # -0.6 instead of -1.2
    assert plan_grid(costs, 2) == (0, 2, 3)


@given(st.integers(0, 6), st.integers(2, 12), st.booleans())
def test_the_top_of_the_shifts_is_climbed_in_few_trials(top: int, evaluations: int, is_even_better: bool) -> None:
    """From the middle, in the direction that rises; then the same shift with a last step as long as the others."""
    names: list[str] = []

    def tried(name: str, grid: Grid) -> Candidate:
        names.append(name)
        shift = float(name.split()[1].rstrip(","))
        gain = 0.5 if EVEN in name and is_even_better else 0.0
        return Candidate(name, grid, 40.0 - abs(SHIFTS.index(shift) - top) + gain)

    best = best_shift("euler", evaluations, SHIFTS, tried)
    assert best.name == f"shift {SHIFTS[top]:g}{EVEN if is_even_better else ''}"
    assert best.grid.evaluations == evaluations
    assert len(names) == len(set(names)) <= abs(top - len(SHIFTS) // 2) + 4


def test_a_plan_that_gains_little_leaves_the_shift() -> None:
    """A grid of its own must be worth it."""
    grid = Grid("euler", (1.0, 0.0))
    assert Tuned(Candidate("shift 3", grid, 40.0), Candidate("planned", grid, 41.4)).chosen.name == "shift 3"
    assert Tuned(Candidate("shift 3", grid, 40.0), Candidate("planned", grid, 41.6)).chosen.name == "planned"


def test_grids_are_found_and_measured_with_the_model_that_ships(pipeline: OfflinePipeline) -> None:
    """More evaluations come nearer, and the grid of all steps changes nothing.  It draws some thirty images."""
    found = tune_grids(pipeline, IMAGES, STEPS, (4, 2), shifts=(2.0, 3.0))
    assert found[4].chosen.likeness_db > found[2].chosen.likeness_db
    assert [found[count].planned.grid.evaluations for count in (4, 2)] == [4, 2]
    rows = [Row("exact", None, STEPS), Row("four", found[4].chosen.grid, 4), Row("plain", None, 2, steps=2)]
    samples = list(measure(pipeline, IMAGES, rows, steps=STEPS, judge=lambda index, _: index == 0, converges=False))
    shown = table(samples)
    assert shown["exact"]["psnr_least"] == 99
    assert shown["four"]["psnr_mean"] > shown["plain"]["psnr_mean"]
    assert {row["right"] for row in shown.values()} == {1}
