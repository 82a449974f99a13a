"""Step grids: the cheapest path of so many evaluations, and what a grid may be."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.tiers.grids import Grid, plan_grid, shifted_sigmas


@given(st.data())
def test_a_plan_is_the_cheapest_path_there_is(data: st.DataObject) -> None:
    """Against every path of as many jumps, for costs of any kind."""
    points = data.draw(st.integers(2, 7))
    amounts = st.integers(0, 20).map(float)
    cost = data.draw(st.lists(st.lists(amounts, min_size=points, max_size=points), min_size=points, max_size=points))
    evaluations = data.draw(st.integers(1, points - 1))

    def total(path: tuple[int, ...]) -> float:
        return sum(cost[j][k] for j, k in pairwise(path))

    paths = [(0, *inner, points - 1) for inner in combinations(range(1, points - 1), evaluations - 1)]
    plan = plan_grid(cost, evaluations)
    assert plan in paths
    assert total(plan) == min(map(total, paths))


@pytest.mark.parametrize("evaluations", [0, 4])
def test_a_plan_of_too_many_or_no_evaluations_is_refused(evaluations: int) -> None:
    """Three steps can be planned in one to three."""
    with pytest.raises(ValueError, match=f"{evaluations} evaluations cannot be planned on 3 steps"):
        plan_grid([[0.0] * 4 for _ in range(4)], evaluations)


@pytest.mark.parametrize("sigmas", [(), (0.0,), (1.0, 0.5), (0.5, 0.5, 0.0), (1.2, 0.0), (1.0, float("nan"), 0.0)])
def test_sigmas_that_no_lane_could_run_are_no_grid(sigmas: tuple[float, ...]) -> None:
    """They fall from at most 1 to 0."""
    with pytest.raises(ValueError, match="a grid's sigmas fall from at most 1 to 0"):
        Grid("euler", sigmas)


def test_a_lane_that_begins_later_runs_the_part_below_its_first_sigma() -> None:
    """From that sigma itself, also where the grid has it."""
    grid = Grid("euler", (1.0, 0.6, 0.2, 0.0))
    assert grid.evaluations == 3
    assert grid.part_below(1.0) == grid.sigmas
    assert grid.part_below(0.7) == (0.7, 0.6, 0.2, 0.0)
    assert grid.part_below(0.6) == (0.6, 0.2, 0.0)


@given(st.integers(1, 40), st.floats(1, 8))
def test_shifted_sigmas_are_a_grid(steps: int, shift: float) -> None:
    """Of so many evaluations, from 1; a larger shift keeps them higher."""
    grid = Grid("euler", shifted_sigmas(steps, shift, 1 / 1000))
    assert (grid.evaluations, grid.sigmas[0]) == (steps, 1.0)
    higher = shifted_sigmas(steps, shift + 1, 1 / 1000)
    assert all(b >= a for a, b in zip(grid.sigmas, higher, strict=True))
