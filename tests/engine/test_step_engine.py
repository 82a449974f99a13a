"""The step engine: lanes that come, pause, move and fail, and that none of it changes an image."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.core.costs import Rates
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import LANE_POLICIES, fifo
from lego_serve.engine.lane_state import LaneResult
from lego_serve.engine.step_engine import StepEngine
from lego_serve.errors import LegoError, NodeError, RequestError
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from tests.support.engine.engines import Clock, Faulty, alone, engine_of, latents, request, run


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> tuple[Backbone, FlowMatchTables]:
    """lego-tiny's architecture with random weights."""
    return load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))


def test_guidance_without_a_negative_prompt_is_refused(model: tuple[Backbone, FlowMatchTables]) -> None:
    """It would have no effect; without guidance the lane runs."""
    engine = engine_of(model)
    with pytest.raises(RequestError, match="guided by a negative prompt") as caught:
        engine.add(replace(request("a"), negative=None))
    assert (caught.value.param, engine.lanes) == ("guidance_scale", 0)
    engine.add(replace(request("a", guidance=1.0), negative=None))
    assert isinstance(run(engine)["a"], LaneResult)


def test_a_step_takes_until_the_device_has_done_it(
    model: tuple[Backbone, FlowMatchTables], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not until it is launched: rates, progress and deadlines count from there."""
    now = 0.0
    batcher = StepBatcher(fifo, StepLimits(float("inf")))
    engine = StepEngine(*model, batcher, lambda: now)

    def wait(device: torch.device) -> None:
        nonlocal now
        now += 1.5

    monkeypatch.setattr("lego_serve.engine.step_engine.wait_for", wait)
    engine.add(request("a", steps=3))
    done = run(engine)["a"]
    assert isinstance(done, LaneResult)
    assert done.step_s == (1.5, 1.5, 1.5)


SAMPLERS = st.sampled_from(["euler", "dpmpp_2m"])
MATE = st.tuples(
    st.sampled_from([96, 128, 160]), st.sampled_from([96, 112]), st.integers(1, 6),
    st.sampled_from([1.0, 3.0]), SAMPLERS, st.integers(0, 4),
)  # fmt: skip


@settings(max_examples=12)
@given(mates=st.lists(MATE, max_size=15), sampler=SAMPLERS, seed=st.integers(0, 99), pauses=st.lists(st.integers(0, 5)))
def test_pixels_are_the_same_with_any_mates_and_pauses(
    model: tuple[Backbone, FlowMatchTables],
    mates: list[tuple[int, int, int, float, str, int]],
    sampler: str,
    seed: int,
    pauses: list[int],
) -> None:
    """With up to 15 others of any shape coming at any step, paused and resumed, a lane's bits stay what they were."""
    mine = request("mine", seed, sampler=sampler)
    expected = alone(model, mine)
    engine = engine_of(model, max_rows=900)
    engine.add(mine)
    found: dict[str, LaneResult | LegoError] = {}
    turn = 0
    while engine.lanes or turn < 5:
        for index, (width, height, steps, guidance, other, comes) in enumerate(mates):
            if comes == turn:
                key = f"mate {index}"
                engine.add(
                    request(key, index, width=width, height=height, steps=steps, guidance=guidance, sampler=other)
                )
        if turn in pauses:
            engine.pause("mine")
        found |= dict(engine.step())
        engine.resume("mine")
        turn += 1
    assert torch.equal(latents(found["mine"]), expected)


@pytest.mark.parametrize("others", [0, 1, 15])
def test_pixels_are_the_same_alone_and_with_fifteen_in_one_pass(
    model: tuple[Backbone, FlowMatchTables], others: int
) -> None:
    """All of other sizes, steps and guidances, and all in every pass while they last."""
    mine = request("mine", 9)
    engine = engine_of(model)
    engine.add(mine)
    for index in range(others):
        size = {"width": 96 + 32 * (index % 3), "height": 96 + 16 * (index % 4)}
        sampler = ("euler", "dpmpp_2m")[index % 2]
        engine.add(
            request(f"mate {index}", index, steps=4 + index % 3, guidance=1.0 + index % 4, sampler=sampler, **size)
        )
    result = run(engine)["mine"]
    assert isinstance(result, LaneResult)
    assert set(result.step_lanes) == {others + 1}
    assert torch.equal(result.latents, alone(model, mine))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_lane_goes_on_elsewhere_from_its_checkpoint(
    model: tuple[Backbone, FlowMatchTables], sampler: str, step: int
) -> None:
    """A checkpoint after any step, taken to another engine, ends in the same bits."""
    mine = request("mine", 7, sampler=sampler)
    first, second = engine_of(model), engine_of(model)
    first.add(mine)
    for _ in range(step):
        first.step()
    second.add(request("mine", 7, sampler=sampler, checkpoint=first.checkpoint("mine")))
    second.add(request("mate", 8, width=128))
    assert torch.equal(latents(run(second)["mine"]), alone(model, mine))


@pytest.mark.parametrize("other", ["weights", "seed", "steps", "guidance"])
def test_a_checkpoint_of_another_lane_or_other_weights_is_begun_again(
    model: tuple[Backbone, FlowMatchTables], other: str
) -> None:
    """After a redeploy a lane ends as the image of what is there now, not of half of each."""
    changed = {"seed": {"seed": 8}, "steps": {"steps": 5}, "guidance": {"guidance": 2.0}}.get(other, {})
    mine = request("mine", **({"seed": 7} | changed))
    first = engine_of(model)
    first.add(request("mine", 7))
    first.step()
    revision = "others" if other == "weights" else ""
    batcher = StepBatcher(fifo, StepLimits(float("inf")))
    second = StepEngine(*model, batcher, Clock(), model_revision=revision)
    second.add(replace(mine, checkpoint=first.checkpoint("mine")))
    result = run(second)["mine"]
    assert isinstance(result, LaneResult)
    assert len(result.step_s) == mine.steps
    assert torch.equal(result.latents, alone(model, mine))


@pytest.mark.parametrize("data", [b"", b"lane1", b"lane1\x05\x00\x00\x00{}   ", b"nonsense"])
def test_a_damaged_checkpoint_is_refused(model: tuple[Backbone, FlowMatchTables], data: bytes) -> None:
    """What cannot be read is an error, and no lane is left behind."""
    engine = engine_of(model)
    with pytest.raises(NodeError, match="checkpoint"):
        engine.add(request("mine", checkpoint=data))
    assert engine.lanes == 0


@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize("nan", [True, False])
def test_a_poisoned_lane_fails_alone(model: tuple[Backbone, FlowMatchTables], nan: bool, others: int) -> None:
    """A lane that makes the module fail, or whose latents become NaN, fails with an error; its mates are unchanged."""
    faulty = Faulty(model[0], poison=5.0, nan=nan), model[1]
    engine = engine_of(faulty)
    mates = [request(f"mate {i}", i) for i in range(others)]
    for lane in [*mates, request("guilty", 9, guidance=5.0)]:
        engine.add(lane)
    found = run(engine)
    assert isinstance(found["guilty"], NodeError)
    assert found["guilty"].code == ("not_finite" if nan else "node_failed")
    for mate in mates:
        assert torch.equal(latents(found[mate.key]), alone(model, mate))
    assert engine.max_rows is None, "what failed was not for want of memory"


def test_running_out_of_memory_halves_the_batch_before_anything_fails(
    model: tuple[Backbone, FlowMatchTables],
) -> None:
    """Lanes too many for memory run in smaller batches, from then on too, with the same bits."""
    faulty = Faulty(model[0], most=2)
    engine = engine_of((faulty, model[1]))
    lanes = [request(f"lane {i}", i) for i in range(6)]
    for lane in lanes:
        engine.add(lane)
    found = run(engine)
    for lane in lanes:
        assert torch.equal(latents(found[lane.key]), alone(model, lane))
    assert faulty.sizes[0] == 6
    assert max(faulty.sizes[4:]) <= 3, "the limit is remembered"


def test_a_lane_too_large_for_memory_fails_alone(model: tuple[Backbone, FlowMatchTables]) -> None:
    """Where not even one lane fits, it fails by name of the reason."""
    engine = engine_of((Faulty(model[0], most=0), model[1]))
    engine.add(request("mine"))
    outcome = run(engine)["mine"]
    assert isinstance(outcome, NodeError)
    assert outcome.code == "out_of_memory"


@pytest.mark.parametrize(("lanes", "faults"), [(6, {"most": 4}), (6, {"poison": 5.0}), (0, {"poison": 5.0})], ids=str)
def test_a_step_that_was_begun_again_teaches_nothing(
    model: tuple[Backbone, FlowMatchTables], lanes: int, faults: dict[str, float]
) -> None:
    """Halved for memory, run one by one for a lane that failed: what it took is not what its work takes in one pass."""
    batcher = StepBatcher(fifo, StepLimits(float("inf")), Rates(1e-6, 1e-9, 1e-3))
    engine = StepEngine(Faulty(model[0], **faults), model[1], batcher, Clock())  # type: ignore[arg-type]
    for index in range(lanes):
        engine.add(request(f"lane {index}", index))
    engine.add(request("last", 9, guidance=5.0))
    known = batcher.rates
    engine.step()
    assert batcher.rates == known
    engine.step()
    assert (batcher.rates != known) == (lanes > 0), "one that came through as planned does teach"


def test_guidance_applies_in_its_interval_only(model: tuple[Backbone, FlowMatchTables]) -> None:
    """No interval at all is no guidance; the whole one is all of it; a part is neither, and costs fewer rows."""
    whole, part, none = (request("mine", guided=interval) for interval in ((0.0, 1.0), (0.25, 0.75), (0.0, 0.0)))
    unguided = request("mine", guidance=1.0)
    assert torch.equal(alone(model, none), alone(model, unguided))
    assert not torch.equal(alone(model, part), alone(model, whole))
    engine = engine_of(model)
    engine.add(part)
    rows = []
    while (plan := engine.plan()) is not None:
        rows.append(plan.work.rows)
        engine.step(plan)
    assert rows == [51, 102, 102, 51]


def test_a_cancelled_lane_is_gone_at_once(model: tuple[Backbone, FlowMatchTables]) -> None:
    """Between steps a lane can be dropped, and its mates go on."""
    engine = engine_of(model)
    engine.add(request("mine", 1))
    engine.add(request("mate", 2))
    engine.step()
    assert engine.cancel("mine")
    assert not engine.cancel("mine")
    assert set(run(engine)) == {"mate"}


@pytest.mark.parametrize("side", [48, 96, 160])
def test_room_is_the_number_of_lanes_that_a_full_step_takes(model: tuple[Backbone, FlowMatchTables], side: int) -> None:
    """Of those of the last step's size; nothing is known where nothing bounds a step."""
    engine = engine_of(model, max_rows=900)
    for index in range(40):
        engine.add(request(f"lane {index}", index, width=side, height=side))
    engine.step()
    assert 1 < engine.gauges.recent_lanes[-1] < 40
    assert engine.gauges.room == engine.gauges.recent_lanes[-1]
    assert engine_of(model).gauges.room == 0


def test_without_the_rules_a_lane_does_depend_on_its_mates(model: tuple[Backbone, FlowMatchTables]) -> None:
    """The negative control: with batch-invariant products dropped, some small lane's bits change in company."""
    linear_ops = model[0].linear_ops
    linear_ops.batch_invariant = False
    try:
        changed = False
        for seed in range(4):
            mine = request("mine", seed, width=16, height=16, steps=2)
            engine = engine_of(model)
            engine.add(mine)
            for index in range(5):
                engine.add(request(f"mate {index}", 50 + index, width=16 * (1 + index % 3), height=16, steps=2))
            changed |= not torch.equal(latents(run(engine)["mine"]), alone(model, mine))
    finally:
        linear_ops.batch_invariant = True
    assert changed


def test_orders_are_plain_functions() -> None:
    """The policies a deployment can choose from."""
    assert set(LANE_POLICIES) == {"fifo", "least_slack", "shortest_remaining"}
    assert LANE_POLICIES["fifo"] is fifo
