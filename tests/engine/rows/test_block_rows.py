"""Lanes whose blocks compute a part of their rows: next to a plain loop, and beside any mates."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.errors import NodeError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.router_files import set_router
from lego_serve.models.sampling import FlowMatchTables, noise
from tests.support.engine import control_lanes
from tests.support.engine.engines import Faulty, alone, engine_of, latents, request, run

Model = tuple[Backbone, FlowMatchTables]
STEPS, TOKENS, TEXT, BLOCKS = 4, 42, 9, 6  # of a request, and of the model
PLAN = BlockRows.rising(0.4, 0.8, STEPS, BLOCKS)
ROWS = ((42,), (42, 16, 16, 16, 16, 16), (42, 25, 25, 25, 25, 25), (42, 33, 33, 33, 33, 33))


@pytest.fixture(autouse=True)
def router(model: Model) -> Iterator[None]:
    """An untrained one, for the time of a test."""
    set_router(model[0], BlockRouter.drawn(BLOCKS, 128, seed=2))
    yield
    model[0].router = None


def pruned(key: str = "mine", seed: int = 3, plan: BlockRows = PLAN, **more: Any) -> LaneRequest:
    """A lane with rows per block."""
    return replace(request(key, seed, **{"steps": plan.evaluations, **more}), block_rows=plan)


def by_hand(model: Model, lane: LaneRequest) -> torch.Tensor:
    """Euler's method with the rows of the plan, the first step whole."""
    backbone, tables = model
    sigmas = tables.schedule("euler", lane.steps, TOKENS).sigmas
    x = noise(backbone.shape.of(lane.width, lane.height), torch.Generator().manual_seed(lane.seed))
    assert lane.negative is not None
    cond, negative = backbone.prepare(lane.cond), backbone.prepare(lane.negative)
    for step in range(lane.steps):
        rows = () if step == 0 else PLAN.rows(lane.steps - step, TOKENS)
        [velocity] = backbone.velocity([LaneInput(x, sigmas[step], lane.guidance, cond, negative, block_rows=rows)])
        x = x + (torch.tensor(sigmas[step + 1]) - torch.tensor(sigmas[step])) * velocity
    return x


def test_a_lane_takes_the_steps_of_a_plain_loop(model: Model) -> None:
    """And is another image than the whole lane's."""
    lane = pruned()
    torch.testing.assert_close(alone(model, lane), by_hand(model, lane), rtol=1e-5, atol=1e-6)
    assert not torch.equal(alone(model, replace(lane, block_rows=None)), alone(model, lane))


def test_lanes_have_the_same_bits_alone_and_among_mates(model: Model) -> None:
    """Others with other budgets, of other sizes, unguided, and whole ones, joining at any time."""
    lane, whole = pruned(), request("whole", 7, steps=3)
    engine = engine_of(model)
    engine.add(pruned("early", 5, width=128))
    engine.step()
    engine.add(pruned("unguided", 6, guidance=1.0))
    engine.add(whole)
    engine.add(lane)
    engine.step()
    engine.add(pruned("late", 8, BlockRows(((1.0, 0.7, 0.2, 0.9, 1.0, 0.5),) * 3)))
    found = run(engine)
    assert torch.equal(latents(found["mine"]), alone(model, lane))
    assert torch.equal(latents(found["whole"]), alone(model, whole))


def test_a_step_has_the_rows_that_were_planned(model: Model) -> None:
    """Two branches; rows are the mean of the blocks, pairs too, of rows that read each other; the answer says it."""
    engine = engine_of(model)
    state = engine.add(pruned())
    assert [state.rows_by_block(step) for step in range(STEPS)] == list(ROWS)
    works = [state.work(step, uses_cfg=True) for step in range(STEPS)]
    for work, rows in zip(works, ROWS, strict=True):
        assert work.rows == -(-sum(2 * (count + TEXT) for count in rows) // len(rows))
        assert work.pairs == -(-sum(2 * (count + TEXT) ** 2 for count in rows) // len(rows))
    found = run(engine)["mine"]
    assert isinstance(found, LaneResult)
    assert found.step_rows == tuple(work.rows for work in works)
    assert found.tier is not None
    wanted = sum(sum(rows) / len(rows) for rows in ROWS) / (STEPS * TOKENS)
    assert found.tier.rows_ratio == pytest.approx(wanted)
    assert PLAN.rows_ratio == pytest.approx(wanted, abs=0.02)  # but for rounding down


def test_a_lane_that_runs_the_end_of_a_grid_has_the_rows_of_the_end(model: Model) -> None:
    """A plan of more evaluations than the lane takes; with fewer it is refused."""
    engine = engine_of(model)
    state = engine.add(replace(pruned(), steps=3))
    assert [state.rows_by_block(step) for step in range(3)] == [(42,), *ROWS[2:]]
    with pytest.raises(NodeError, match="for 4 evaluations, and the lane takes 5"):
        engine.add(replace(pruned("long"), steps=5))


def test_a_resumed_lane_computes_everything_first(model: Model) -> None:
    """As one with own rows does; the work that was planned for it says so."""
    engine = engine_of(model)
    engine.add(pruned())
    for _ in range(2):
        engine.step()
    other = engine_of(model)
    state = other.add(replace(pruned(), checkpoint=engine.checkpoint("mine")))
    assert [state.rows_by_block(step) for step in (2, 3)] == [(TOKENS,), ROWS[3]]
    found = run(other)["mine"]
    assert isinstance(found, LaneResult)
    assert found.step_rows[0] == 2 * (TOKENS + TEXT)


def test_what_begins_or_ends_makes_a_step_whole(model: Model, net: Any) -> None:
    """Guidance that ends, and the steps of a ControlNet with the one after them."""
    plan = BlockRows.rising(0.5, 0.5, 8, BLOCKS)
    engine = engine_of(model)
    state = engine.add(replace(pruned(plan=plan), guided=(0.0, 0.5)))
    assert [step for step in range(8) if state.rows_by_block(step) == (TOKENS,)] == [0, 4]
    controlled = control_lanes.engine_of(model, net=net)
    lane = control_lanes.request("c", control_lanes.use(start=0.4, end=0.6), block_rows=plan)
    state = controlled.add(lane)
    assert [step for step in range(5) if len(state.rows_by_block(step)) == 1] == [0, 2, 3]
    outcome = control_lanes.finish(controlled)["c"]
    assert torch.isfinite(control_lanes.latents(outcome)).all()


def test_lanes_whose_work_would_change_under_way_are_whole(model: Model) -> None:
    """Where adapters come late."""
    state = engine_of(model).add(replace(pruned(), wait_for_adapters_at=2))
    assert {state.rows_by_block(step) for step in range(STEPS)} == {(TOKENS,)}


def test_a_lane_that_breaks_ends_alone(model: Model) -> None:
    """Not a number in one lane's latents is in no other lane, pruned or whole."""
    engine = engine_of(model)
    engine.add(pruned("bad"))
    engine.add(pruned("good", 4))
    engine.add(request("whole", 5))
    engine.step()
    state = engine.state("bad")
    state.latents = torch.full_like(state.latents, torch.nan)
    found = run(engine)
    assert isinstance(found["bad"], NodeError)
    assert torch.equal(latents(found["good"]), alone(model, pruned("good", 4)))
    assert torch.equal(latents(found["whole"]), alone(model, request("whole", 5)))


def test_a_step_that_runs_again_in_halves_is_the_same(model: Model) -> None:
    """Where memory was too short for the batch."""
    short: Any = Faulty(model[0], most=1)
    short.router = model[0].router
    engine = engine_of((short, model[1]))
    lanes = [pruned("mine"), pruned("other", 5)]
    for lane in lanes:
        engine.add(lane)
    found = run(engine)
    for lane in lanes:
        assert torch.equal(latents(found[lane.key]), alone(model, lane))


def test_a_model_that_cannot_choose_rows_refuses_the_lane(model: Model) -> None:
    """It has no router, or one of other blocks; others run."""
    other = BlockRows.rising(0.5, 0.5, STEPS, 4)
    engine = engine_of(model)
    with pytest.raises(NodeError, match="in 4 blocks, and the model has 6"):
        engine.add(pruned(plan=other))
    model[0].router = None
    with pytest.raises(NodeError, match="in 6 blocks, and the model has no router"):
        engine.add(pruned())
    engine.add(request("whole"))
    assert latents(run(engine)["whole"]).shape[0] == 8
