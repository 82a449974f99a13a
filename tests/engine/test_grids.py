"""Lanes on grids: what they compute, what they cost, and that nothing beside them changes it."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.editing.reuse import Quality
from lego_serve.core.tiers.grids import Grid
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.template_store import Template
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import ImageLatents
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.sampling import FlowMatchTables, Schedule, noise
from lego_serve.models.tier_files import read_book
from tests.support.engine.control_lanes import request as controlled_request
from tests.support.engine.control_lanes import use
from tests.support.engine.engines import alone, engine_of, latents, request, run
from tests.support.template_edits import lane as edit_lane

Model = tuple[Backbone, FlowMatchTables]
GRIDS = st.builds(
    lambda sampler, inner: Grid(sampler, (1.0, *sorted(inner, reverse=True), 0.0)),
    st.sampled_from(["euler", "dpmpp_2m"]),
    st.sets(st.integers(1, 99).map(lambda each: each / 100), max_size=5),
)


def on(grid: Grid | None, key: str = "mine", seed: int = 3, **more: object) -> LaneRequest:
    """A lane on a grid, in the tier `high`."""
    return replace(request(key, seed, **more), grid=grid, tier="high")  # type: ignore[arg-type]


def by_hand(model: Model, lane: LaneRequest, sigmas: tuple[float, ...]) -> torch.Tensor:
    """Euler's method on these sigmas, one pass of the backbone after the other."""
    backbone, _ = model
    x = noise(backbone.shape.of(lane.width, lane.height), torch.Generator().manual_seed(lane.seed))
    cond = backbone.prepare(lane.cond)
    negative = None if lane.negative is None or lane.guidance <= 1 else backbone.prepare(lane.negative)
    for now, after in pairwise(sigmas):
        [velocity] = backbone.velocity([LaneInput(x, now, lane.guidance, cond, negative)])
        x = x + (torch.tensor(after) - torch.tensor(now)) * velocity
    return x


def test_a_lane_takes_eulers_steps_on_its_grid(model: Model) -> None:
    """Bit for bit what a plain loop comes to; the answer names the tier and what it stands for."""
    grid = Grid("euler", (1.0, 0.83, 0.4, 0.0))
    engine = engine_of(model)
    lane = on(grid, steps=6)
    engine.add(lane)
    found = run(engine)["mine"]
    assert torch.equal(latents(found), by_hand(model, lane, grid.sigmas))
    assert isinstance(found, LaneResult)
    assert found.tier is not None
    assert (found.tier.tier, found.tier.evaluations, found.tier.steps) == ("high", 3, 6)
    assert len(found.step_s) == 3


def test_the_grid_of_all_steps_is_the_exact_tier(model: Model) -> None:
    """Bit for bit, for the sigmas that Euler's table has."""
    backbone, tables = model
    lane = request("mine", 1, steps=4)
    table = tables.schedule("euler", 4, backbone.shape.tokens(lane.width, lane.height))
    assert torch.equal(alone(model, lane), alone(model, replace(lane, grid=Grid("euler", table.sigmas))))


@settings(max_examples=12)
@given(mine=GRIDS, mates=st.lists(st.tuples(st.none() | GRIDS, st.integers(0, 3)), max_size=6))
def test_bits_do_not_depend_on_mates_and_every_lane_takes_its_planned_rows(
    model: Model, mine: Grid, mates: list[tuple[Grid | None, int]]
) -> None:
    """Whatever grids the others run on, and whenever they come; a lane's work is known before it runs."""
    expected = alone(model, on(mine))
    engine = engine_of(model, max_rows=900)
    engine.add(on(mine))
    found, turn = {}, 0
    while engine.lanes or turn < 4:
        for index, (grid, comes) in enumerate(mates):
            if comes == turn:
                engine.add(on(grid, f"mate {index}", index))
        found |= dict(engine.step())
        turn += 1
    assert torch.equal(latents(found["mine"]), expected)
    for index, (grid, _) in enumerate(mates):
        mate = found[f"mate {index}"]
        assert isinstance(mate, LaneResult)
        assert len(mate.step_s) == (request("any").steps if grid is None else grid.evaluations)


def test_the_scheduler_plans_the_evaluations_of_a_grid(model: Model) -> None:
    """As many steps as the grid has, each of the rows of a step without one."""
    engine = engine_of(model)
    engine.add(on(Grid("euler", (1.0, 0.5, 0.0)), "short"))
    engine.add(on(None, "long"))
    planned = []
    while (plan := engine.plan()) is not None:
        planned.append((plan.keys, plan.work.rows))
        engine.step(plan)
    alone_rows = planned[-1][1]
    assert [keys for keys, _ in planned] == [("short", "long")] * 2 + [("long",)] * (request("any").steps - 2)
    assert [rows for _, rows in planned[:2]] == [2 * alone_rows] * 2


def test_image_to_image_runs_the_part_of_the_grid_below_its_first_sigma(model: Model) -> None:
    """From the sigma that its strength leaves, noised to it as without a grid."""
    backbone, tables = model
    shape = backbone.shape.of(96, 112)
    init = ImageLatents(torch.randn(shape, generator=torch.Generator().manual_seed(2)), torch.zeros(shape))
    grid = Grid("euler", (1.0, 0.9, 0.5, 0.2, 0.0))
    lane = on(grid, steps=5, width=96, height=112, init=init, strength=0.6)
    engine = engine_of(model)
    state = engine.add(lane)
    first = tables.schedule("euler", 5, backbone.shape.tokens(96, 112)).shortened(0.6).sigmas[0]
    assert state.schedule.sigmas == (first, *(sigma for sigma in grid.sigmas if sigma < first))
    plain = engine_of(model).add(replace(lane, grid=None))
    assert torch.equal(state.latents, plain.latents)
    assert state.schedule.asked == plain.schedule.steps == 3


@given(mine=GRIDS, steps=st.integers(2, 12), strength=st.floats(0.05, 1.0), at=st.integers(0, 12))
def test_early_steps_of_a_grid_stand_for_no_asked_step_that_needs_what_is_late(
    mine: Grid, steps: int, strength: float, at: int
) -> None:
    """As many as can be, and never the last; without a grid they are the asked steps."""
    sigmas = (*(1 - step / steps for step in range(steps)), 0.0)
    whole = Schedule(sigmas, sigmas[:-1]).shortened(strength)
    schedule = whole.on_grid(mine)
    early = schedule.early_steps(at)
    assert 0 <= early <= schedule.steps - 1
    assert all(schedule.span(step)[1] <= at for step in range(early))
    assert early == schedule.steps - 1 or schedule.span(early)[1] > at
    assert whole.early_steps(at) == min(at, whole.steps - 1)


@pytest.mark.parametrize("tier", ["high", "balanced", "fast"])
@pytest.mark.parametrize("strength", [0.1, 0.4, 0.7, 0.9])
def test_a_lane_waits_for_late_adapters_whatever_part_of_a_shipped_tier_it_runs(
    model: Model, tier: str, strength: float
) -> None:
    """Before it ends: an image is never finished without an adapter that was asked for."""
    run_of_tier = read_book("builtin:lego-tiny").choose(tier, "euler", 28, 96, 96)
    assert run_of_tier is not None
    shape = model[0].shape.of(96, 96)
    init = ImageLatents(torch.zeros(shape), torch.zeros(shape))
    lane = on(run_of_tier.grid, steps=28, width=96, height=96, init=init, strength=strength)
    for at in (0, int(28 * strength) // 2, 27):
        state = engine_of(model).add(replace(lane, key=f"at {at}", wait_for_adapters_at=at))
        assert state.wait_for_adapters_at is not None
        assert 0 <= state.wait_for_adapters_at < state.schedule.steps


def test_what_a_tier_saved_counts_the_branches_that_were_asked_for(model: Model) -> None:
    """A checkpoint without guidance saves the second one as well; guidance in a part of the steps was less to save."""
    grid = Grid("euler", (1.0, 0.5, 0.0))

    def saved(lane: LaneRequest) -> float:
        engine = engine_of(model)
        engine.add(lane)
        found = run(engine)["mine"]
        assert isinstance(found, LaneResult)
        assert found.tier is not None
        return found.tier.saved_ratio

    assert saved(on(None, steps=4)) == pytest.approx(0.0)
    assert saved(on(None, steps=4, guided=(0.0, 0.5))) == pytest.approx(0.0)
    assert saved(on(grid, steps=4)) == pytest.approx(1 / 2)
    unguided = replace(on(grid, steps=4), negative=None, guidance=1.0)
    assert saved(replace(unguided, was_guided=True)) == pytest.approx(3 / 4)
    assert saved(replace(unguided, was_guided=False)) == pytest.approx(1 / 2)
    assert saved(on(grid, steps=4, guided=(0.0, 0.25))) == pytest.approx(1 - 3 / 5)


def test_a_checkpoint_of_a_grid_is_gone_on_from_on_the_same_grid_alone(model: Model) -> None:
    """With the same bits; on another one, or none, the lane begins again."""
    grid = Grid("dpmpp_2m", (1.0, 0.8, 0.5, 0.2, 0.0))
    whole, engine = alone(model, on(grid)), engine_of(model)
    engine.add(on(grid))
    engine.step()
    engine.step()
    kept = engine.checkpoint("mine")
    resumed = engine_of(model)
    assert resumed.add(on(grid, checkpoint=kept)).step == 2
    assert torch.equal(latents(run(resumed)["mine"]), whole)
    other = Grid("dpmpp_2m", (1.0, 0.7, 0.5, 0.2, 0.0))
    assert [engine_of(model).add(on(each, checkpoint=kept)).step for each in (other, None)] == [0, 0]


def test_what_is_active_in_a_part_of_the_steps_is_so_in_the_part_of_the_grid() -> None:
    """By the sigmas of the steps that a grid's step stands for, not by its own number."""
    asked = Schedule((1.0, 0.9, 0.7, 0.4, 0.0), (1.0, 0.9, 0.7, 0.4))
    on_grid = asked.on_grid(Grid("euler", (1.0, 0.8, 0.4, 0.0)))
    assert on_grid.begins == (0, 1, 3)
    assert [on_grid.span(step) for step in range(3)] == [(0, 1), (1, 3), (3, 4)]
    half = use(end=0.5)
    assert [half.is_active(on_grid.span(step), on_grid.asked) for step in range(3)] == [True, False, False]
    assert [half.is_active(asked.span(step), asked.asked) for step in range(4)] == [True, True, False, False]
    lane = replace(controlled_request("a"), steps=4, guided=(0.25, 0.75), grid=Grid("euler", (1.0, 0.8, 0.4, 0.0)))
    assert [lane.is_guided(begin) for begin in on_grid.begins] == [False, True, False]


@pytest.mark.parametrize("quality", [Quality.HIGH, Quality.CAREFUL])
def test_an_edit_primes_the_sigmas_of_its_grid(family: OfflinePipeline, template: Template, quality: Quality) -> None:
    """And reads no others; outside its mask it is the template, as without a grid."""
    grid = Grid("euler", (1.0, 0.8, 0.3, 0.0))
    lane = edit_lane(family, template, quality, grid=grid, tier="high")
    state = family.engine.add(lane)
    plan = state.edit.plan.entries if state.edit is not None else ()
    assert len(plan) == 3
    found = run(family.engine)[lane.key]
    outside = ~lane.edit.mask if lane.edit is not None else torch.zeros(0)
    assert torch.equal(latents(found)[:, outside], template.latents[:, outside])
