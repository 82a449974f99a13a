"""Lanes that take a part of their rows from their own earlier steps: next to a plain loop, and beside any mates."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.rows.own_rows import WAITING_GROWTH
from lego_serve.errors import NodeError
from lego_serve.models.ragged.activations import KeptKeys, Reuse
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.sampling import FlowMatchTables, noise
from tests.support.engine import control_lanes
from tests.support.engine.engines import Faulty, alone, engine_of, latents, request, run
from tests.support.transformers import tokens_of

Model = tuple[Backbone, FlowMatchTables]
PLAN = OwnRows(0.4, warm=2, every=3)
STEPS, TOKENS, TEXT = 8, 42, 9  # of a request


def sparse(key: str = "mine", seed: int = 3, plan: OwnRows = PLAN, **more: Any) -> LaneRequest:
    """A lane with own rows."""
    return replace(request(key, seed, **{"steps": STEPS, **more}), own_rows=plan)


@given(share=st.floats(0.01, 0.99), warm=st.integers(1, 6), every=st.integers(2, 9), rows=st.integers(1, 5000))
def test_a_plan_computes_all_rows_first_and_again_and_again(share: float, warm: int, every: int, rows: int) -> None:
    """At least one row is active, at most all; no more than ``every`` - 1 sparse steps follow each other."""
    plan = OwnRows(share, warm, every)
    dense = [step for step in range(60) if plan.is_dense(step)]
    assert dense[:warm] == list(range(warm))
    assert all(after - before <= every for before, after in zip(dense[warm - 1 :], dense[warm:], strict=False))
    assert 1 <= plan.active_rows(rows) <= rows
    assert plan.active_rows(rows) >= share * rows - 1e-6


@pytest.mark.parametrize("numbers", [(0.0, 4, 8), (1.0, 4, 8), (0.5, 0, 8), (0.5, 4, 1), (float("nan"), 4, 8)])
def test_a_plan_that_no_lane_could_run_is_refused(numbers: tuple[float, int, int]) -> None:
    """With its numbers in the message."""
    with pytest.raises(ValueError, match="own rows of share"):
        OwnRows(*numbers)


def by_hand(model: Model, lane: LaneRequest) -> torch.Tensor:
    """Euler's method in which sparse steps compute the rows that changed most, by plain indexing."""
    backbone, tables = model
    sigmas = tables.schedule("euler", lane.steps, TOKENS).sigmas
    x = noise(backbone.shape.of(lane.width, lane.height), torch.Generator().manual_seed(lane.seed))
    assert lane.negative is not None
    cond, negative = backbone.prepare(lane.cond), backbone.prepare(lane.negative)
    keys = KeptKeys(), KeptKeys()
    last = changes = torch.zeros(())
    for step in range(lane.steps):
        inputs = LaneInput(x, sigmas[step], lane.guidance, cond, negative)
        if PLAN.is_dense(step):
            [velocity] = backbone.velocity([replace(inputs, capture=keys[0], capture_negative=keys[1])])
            if step:
                changes = (tokens_of(velocity) - tokens_of(last)).abs().mean(dim=1)
        else:
            active = torch.argsort(changes, descending=True)[: PLAN.active_rows(TOKENS)].sort().values
            [part] = backbone.velocity([replace(inputs, reuse=Reuse(active, *keys))])
            velocity, changes = last.clone(), changes * WAITING_GROWTH
            for row in active.tolist():
                top, left = 2 * (row // 6), 2 * (row % 6)
                place = (slice(None), slice(top, top + 2), slice(left, left + 2))
                velocity[place] = part[place]
                changes[row] = (part[place] - last[place]).abs().mean()
        x, last = x + (torch.tensor(sigmas[step + 1]) - torch.tensor(sigmas[step])) * velocity, velocity
    return x


def test_a_lane_takes_the_steps_of_a_plain_loop(model: Model) -> None:
    """Which rows are active, and what stands for the others, within rounding of a mean."""
    lane = sparse()
    torch.testing.assert_close(alone(model, lane), by_hand(model, lane), rtol=1e-4, atol=1e-5)
    assert not torch.equal(alone(model, replace(lane, own_rows=None)), alone(model, lane))


def test_with_nearly_all_rows_active_little_is_lost(model: Model) -> None:
    """All rows, from kept keys and computed ones: a full step within rounding, as every row is computed."""
    lane = sparse(plan=OwnRows(0.999, 1, 2))
    torch.testing.assert_close(alone(model, lane), alone(model, replace(lane, own_rows=None)), rtol=1e-4, atol=1e-4)


def test_lanes_have_the_same_bits_alone_and_among_mates(model: Model) -> None:
    """Others with own rows at other steps, of other sizes, unguided, and whole ones, joining at any time."""
    lane = sparse()
    engine = engine_of(model)
    engine.add(sparse("early", 5, width=128))
    engine.step()
    engine.add(sparse("unguided", 6, guidance=1.0))
    engine.add(request("whole", 7, steps=3))
    engine.add(lane)
    engine.step()
    engine.add(sparse("late", 8, OwnRows(0.7, 1, 2)))
    assert torch.equal(latents(run(engine)["mine"]), alone(model, lane))


def test_a_step_has_the_rows_that_were_planned(model: Model) -> None:
    """Two branches of 42 image rows and 9 of text; 17 image rows in sparse steps; the answer says what was saved."""
    engine = engine_of(model)
    engine.add(sparse())
    found = run(engine)["mine"]
    assert isinstance(found, LaneResult)
    whole, part = 2 * (TOKENS + TEXT), 2 * (17 + TEXT)
    assert found.step_rows == (whole, whole, part, part, whole, part, part, whole)
    assert found.tier is not None
    assert found.tier.rows_ratio == pytest.approx((4 * 42 + 4 * 17) / (8 * 42))


def test_a_resumed_lane_computes_everything_first(model: Model) -> None:
    """Its keys are not in the checkpoint; the work that was planned for it says so."""
    engine = engine_of(model)
    engine.add(sparse())
    for _ in range(3):
        engine.step()
    kept = engine.checkpoint("mine")
    other = engine_of(model)
    other.add(replace(sparse(), checkpoint=kept))
    found = run(other)["mine"]
    assert isinstance(found, LaneResult)
    assert found.step_rows[0] == 2 * (TOKENS + TEXT)
    assert found.step_rows[1] == 2 * (TOKENS + TEXT), "step 4 is dense by the plan"
    assert torch.isfinite(found.latents).all()
    again = engine_of(model)
    again.add(replace(sparse(), checkpoint=kept))
    again.step()
    third = engine_of(model)
    third.add(replace(sparse(), checkpoint=again.checkpoint("mine")))
    moved_twice = run(third)["mine"]
    assert isinstance(moved_twice, LaneResult)
    for result, sparse_steps in ((found, 3), (moved_twice, 3)):
        assert result.tier is not None
        rows = (8 - sparse_steps) * 42 + sparse_steps * 17
        assert result.tier.rows_ratio == pytest.approx(rows / (8 * 42)), "steps elsewhere count as they were"


def test_what_changes_the_keys_makes_a_step_dense(model: Model, net: Any) -> None:
    """Guidance that ends, and the steps of a ControlNet with the one after them."""
    engine = engine_of(model)
    plan = OwnRows(0.4, 1, 50)
    engine.add(replace(sparse(plan=plan), guided=(0.0, 0.5)))
    state = engine.state("mine")
    dense = [step for step in range(STEPS) if state.rows_by_block(step) == (TOKENS,)]
    assert dense == [0, 4]
    controlled = control_lanes.engine_of(model, net=net)
    lane = control_lanes.request("c", control_lanes.use(start=0.4, end=0.6), own_rows=plan)
    state = controlled.add(lane)
    assert [step for step in range(5) if state.rows_by_block(step) == (TOKENS,)] == [0, 2, 3]
    outcome = control_lanes.finish(controlled)["c"]
    assert torch.isfinite(control_lanes.latents(outcome)).all()


def test_a_lane_whose_keys_break_ends_alone(model: Model) -> None:
    """Not a number in one lane's kept keys is in no other lane."""
    engine = engine_of(model)
    engine.add(sparse("bad"))
    engine.add(sparse("good", 4))
    for _ in range(2):
        engine.step()
    own = engine.state("bad").own
    assert own is not None
    own.cond.by_attention["0"] = torch.full_like(own.cond.by_attention["0"], torch.nan)
    found = run(engine)
    assert isinstance(found["bad"], NodeError)
    assert torch.equal(latents(found["good"]), alone(model, sparse("good", 4)))


def test_a_step_that_runs_again_in_halves_leaves_nothing_behind(model: Model) -> None:
    """Where memory was too short for the batch."""
    short: Any = Faulty(model[0], most=1)
    engine = engine_of((short, model[1]))
    lanes = [sparse("mine"), sparse("other", 5)]
    for lane in lanes:
        engine.add(lane)
    found = run(engine)
    for lane in lanes:
        assert torch.equal(latents(found[lane.key]), alone(model, lane))
