"""Lanes whose latents come to hold what is no number: found in that step, and their mates unchanged."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.core.editing.reuse import Quality
from lego_serve.engine.lane_state import LaneRequest, LaneResult
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.engine.step.advance import CHECK_EVERY_STEPS, NanCheck
from lego_serve.engine.template_store import Template
from lego_serve.errors import LegoError, NodeError
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.lane_input import LaneInput, VelocityRows
from lego_serve.models.registry import ModelSpec
from lego_serve.models.sampling import FlowMatchTables
from tests.support import edits
from tests.support.builders import run_results
from tests.support.engine.engines import Faulty, alone, engine_of, latents, request

STEPS, SPOILED_AT, POISON = 6, 2, 5.0


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> tuple[Backbone, FlowMatchTables]:
    """lego-tiny's architecture with random weights."""
    return load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))


@pytest.fixture(scope="module")
def spec(tiny_folder: Path) -> ModelSpec:
    """The same, as an edit's server has it."""
    return ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0)


def lane_of(family: OfflinePipeline, template: Template) -> LaneRequest:
    """A guided edit of a template."""
    return edits.edit_lane(family, template, Quality.HIGH, ("a red circle", "blue"))


def with_pin(lane: LaneRequest, pin: str) -> LaneRequest:
    """The same, which pins what it reads."""
    assert lane.edit is not None
    return replace(lane, edit=replace(lane.edit, pin=pin))


class Spoiling(Faulty):
    """A backbone that puts one bad number into what it says of the guilty, from a time on."""

    def __init__(self, inner: Backbone, bad: float) -> None:
        super().__init__(inner)
        self.bad, self.from_time = bad, -math.inf

    def velocity_rows(self, lanes: Sequence[LaneInput]) -> list[VelocityRows]:
        """As the real one, but for that."""
        velocities = [replace(velocity, rows=velocity.rows.clone()) for velocity in super().velocity_rows(lanes)]
        for lane, velocity in zip(lanes, velocities, strict=True):
            if lane.guidance == POISON and lane.time <= self.from_time:
                velocity.rows[7, 3] = self.bad
        return velocities


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_lane_that_turns_bad_ends_in_that_step(
    model: tuple[Backbone, FlowMatchTables], bad: float, sampler: str, others: int
) -> None:
    """Four steps before its end, with the error it would have had there; the others come to what they come to alone."""
    spoiling = Spoiling(model[0], bad)
    engine = engine_of((spoiling, model[1]))  # type: ignore[arg-type]
    mates = [request(f"mate {i}", i, steps=STEPS, sampler=sampler) for i in range(others)]
    for lane in [*mates, request("guilty", 9, guidance=POISON, steps=STEPS, sampler=sampler)]:
        engine.add(lane)
    spoiling.from_time = engine.state("guilty").schedule.times[SPOILED_AT - 1]
    found: dict[str, tuple[int, LaneResult | LegoError]] = {}
    for step in range(1, STEPS + 1):
        found |= {key: (step, outcome) for key, outcome in engine.step()}
        assert "guilty" not in [state.request.key for state in engine.advanced] or step < SPOILED_AT
    step, outcome = found["guilty"]
    assert isinstance(outcome, NodeError)
    assert (step, outcome.code) == (SPOILED_AT, "not_finite")
    assert engine.lanes == 0
    for mate in mates:
        assert torch.equal(latents(found[mate.key][1]), alone(model, mate))


numbers = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([math.nan, math.inf, -math.inf])
)
tensors = st.lists(st.lists(numbers, min_size=1, max_size=9), max_size=6)


@given(tensors)
def test_whatever_is_finite_is_let_through_and_nothing_else(lists: list[list[float]]) -> None:
    """Also where finite numbers add up to more than there are, and infinities to none."""
    lanes = {str(index): torch.tensor(values, dtype=torch.float32) for index, values in enumerate(lists)}
    wanted = [str(index) for index, values in enumerate(lists) if not all(map(math.isfinite, values))]
    assert NanCheck(torch.device("cpu")).broken(lanes) == wanted


def test_large_numbers_may_add_up_to_infinity() -> None:
    """They are an image's own business."""
    large = torch.full((4, 8, 8), 3e38)
    assert not math.isfinite(float(large.sum()))
    assert NanCheck(torch.device("cpu")).broken({"large": large}) == []


def test_a_device_is_waited_for_once_in_some_steps() -> None:
    """For all lanes at once; what went bad between is found then."""
    check, bad = NanCheck(torch.device("cuda")), {"a": torch.tensor([math.nan]), "b": torch.zeros(1)}
    assert [check.broken(bad) for _ in range(2 * CHECK_EVERY_STEPS)] == 2 * ([[]] * (CHECK_EVERY_STEPS - 1) + [["a"]])


@pytest.mark.parametrize("pin", ["", "tenant.pin"])
def test_an_edit_that_turns_bad_leaves_nothing_of_its_template_to_be_read(
    spec: ModelSpec, pin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it read may have gone bad before it: the next edit primes anew; another template's are read as before."""
    family = edits.with_store(spec)
    honest = family.engine._backbone.velocity_rows

    def spoiling(lanes: Sequence[LaneInput]) -> list[VelocityRows]:
        factors = [math.nan if lane.guidance == POISON else 1.0 for lane in lanes]
        return [replace(v, rows=v.rows * factor) for v, factor in zip(honest(lanes), factors, strict=True)]

    monkeypatch.setattr(family.engine._backbone, "velocity_rows", spoiling)
    one, two = (with_pin(lane_of(family, edits.template(family, own=own)), pin) for own in (1, 2))

    def primed(lane: LaneRequest) -> int:
        return edits.read(run_results(family, lane)["edit"]).primed

    both = 2 * edits.STEPS  # the words that prime, and the negative prompt
    assert [primed(lane) for lane in (one, one, two, two)] == [both, 0, both, 0]
    with pytest.raises(AssertionError, match="finite numbers"):
        primed(replace(one, guidance=POISON))
    assert [primed(lane) for lane in (two, one, one)] == [0, both, 0]
    store = family.engine.templates
    assert store.pinned_bytes == (store.used_bytes if pin else 0)
