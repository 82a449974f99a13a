"""Whole steps on a GPU that is not there, of lanes of every kind: what passes here runs on a GPU without a copy or a
wait that is not stated.

Stated in a step are: the layout of its batch and the times of its branches, which go up; the noise of ``lcm``; for a
ControlNet in another process the lanes' latents, which come down, and its residuals.  Not in every step but when
something changes: a lane's own tensors when it is added; an adapter's weights and its rows in the batch when the batch
changes; the rotations of a new image size; a number a lane every few steps, to find those that are broken.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lego_kernels import Segments
from lego_serve.engine.step.advance import CHECK_EVERY_STEPS
from lego_serve.engine.step.priming import PrimingBatch
from lego_serve.engine.step_engine import StepEngine
from lego_serve.models.controlnet import messages
from lego_serve.models.ragged.device import fetched, uploaded
from lego_serve.models.ragged.lane_input import LaneInput
from tests.support.engine.fake_gpu import GPU, NAME, Copies
from tests.support.engine.fake_lanes import STEPS, engine_for, give, lanes

# What a step takes from the CPU: which branch each row of image, text and both is of, the times, and of FLUX the
# guidance; of a ControlNet in this process as much again.
STATED = {"sd3": 4, "flux": 5}
KINDS = (
    "plain", "own rows", "block rows", "references", "edit", "primed edit", "lcm", "int8", "fp8", "sparse24",
    "adapters", "merged adapters", "adapted block rows", "controls", "controls elsewhere",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fake_tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All tensors are fake, but for those made of arrays, and arrays made of them hold zeros."""

    def to_array(tensor: torch.Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu"
        return np.zeros(tuple(tensor.shape), np.float32)

    monkeypatch.setattr(messages, "to_array", to_array)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def running(family: str, count: int, kind: str, steps: int = 2) -> StepEngine:
    """An engine with so many lanes of a kind that have taken so many steps; none of them may fail."""
    engine = engine_for(family, kind)
    for lane in lanes(engine, count, kind):
        state = engine.add(lane)
        assert state.latents.device.type == NAME
        give(state, engine, kind)
    for _ in range(steps):
        assert engine.step() == []
    return engine


def copies(family: str, count: int, kind: str) -> Copies:
    """What the third step over so many lanes of a kind copies."""
    engine = running(family, count, kind)
    with Copies() as seen:
        assert engine.step() == []
    assert len(engine.advanced) == count
    assert all(each.device.type == NAME for state in engine.advanced for each in (state.latents, *state.history))
    return seen


def of_pixels(copied: list[torch.Tensor]) -> list[torch.Tensor]:
    """Those shaped like latents."""
    return [each for each in copied if each.dim() == 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_step_on_a_gpu_copies_what_is_stated_and_mixes_no_devices(family: str, kind: str) -> None:
    """The host waits for nothing, and copies no more for many lanes than for few: the layout and the times alone."""
    few, many = copies(family, 2, kind), copies(family, 6, kind)
    assert few.hidden == many.hidden == []
    assert (len(of_pixels(few.up)), len(of_pixels(many.up))) == ((2, 6) if kind == "lcm" else (0, 0))
    layout = [each for each in many.up if each.dim() == 1]
    passes = 3 if kind == "controls" else 1  # some of the many lanes have a second ControlNet
    assert len(layout) == STATED[family] * passes
    branches = 3 if kind == "primed edit" else 2  # of a lane, each with its time; the template's text is one more
    assert all(each.dtype == torch.int64 or each.numel() <= branches * 6 for each in layout)
    if kind != "controls elsewhere":
        assert few.down == many.down == []
        assert len(layout) == len(many.up) - len(of_pixels(many.up))


@pytest.mark.parametrize(("family", "residuals"), [("sd3", 1), ("flux", 2)])
def test_a_controlnet_elsewhere_is_sent_latents_and_its_residuals_come_once(family: str, residuals: int) -> None:
    """All latents of its lanes are waited for at once, and a residual that several blocks add is one copy."""
    seen = copies(family, 6, "controls elsewhere")
    assert seen.hidden == []
    assert len(of_pixels(seen.down)) == len(seen.down) == 6 + 2  # two of them have two ControlNets
    assert len([each for each in seen.up if each.dim() == 2]) == 2 * residuals


@pytest.mark.parametrize("kind", ["adapters", "adapted block rows"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_adapters_of_a_batch_that_stays_are_laid_out_once(
    family: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of rows, which a GPU is sent, are those of the step before, also of blocks with rows of their own."""
    made: list[Segments] = []
    monkeypatch.setattr(Segments, "__post_init__", lambda each: made.append(each))
    engine = running(family, 4, kind)
    assert made
    made.clear()
    engine.step()
    assert made == []


def test_lanes_of_a_kind_do_what_they_are_named_for() -> None:
    """The third step computes a part of the rows, adds what it is to add, and reads what was kept or fills it."""
    for kind in ("own rows", "edit", "primed edit"):
        engine = running("sd3", 4, kind)
        inputs = inputs_of(engine)
        assert all(lane.reuse is not None for lane in inputs)
        assert [lane.reuse.reads_text for lane in inputs if lane.reuse] == [kind == "primed edit"] * 4
    assert engine.templates.entries == 6  # a branch each of three sigmas in the second step: the first one read none
    rows = [lane.block_rows for lane in inputs_of(running("sd3", 4, "adapted block rows"))]
    assert rows == [(36, 18, 10), (48, 24, 14)] * 2
    assert running("flux", 4, "references").templates.entries == 1
    engine = running("flux", 4, "merged adapters")
    assert len(engine._backbone.adapters.patched) == 2
    engine = running("flux", 4, "adapters")
    assert engine._backbone.adapters.patched == ()
    assert [len(lane.adapters) for lane in inputs_of(engine)] == [1, 2, 0, 1]
    engine = running("sd3", 4, "controls elsewhere")
    assert [[len(step) for step in net.asked] for net in engine._setup._controls.values()] == [[4, 4], [2, 2]]  # type: ignore[attr-defined]


def inputs_of(engine: StepEngine) -> list[LaneInput]:
    """What the next step of four lanes takes."""
    priming = PrimingBatch(engine._backbone, engine.templates, engine._batcher.rates)
    return [engine._setup.lane_input(engine.state(str(index)), priming) for index in range(4)]


def test_broken_lanes_are_asked_for_in_every_fifth_step() -> None:
    """The one number a lane that a step reads, which fake tensors do not have; the steps before read none."""
    engine = running("sd3", 1, "plain", CHECK_EVERY_STEPS - 1)
    with pytest.raises(DataDependentOutputException):
        engine.step()


def test_a_lane_on_another_device_is_noticed() -> None:
    """The negative control: latents on the CPU are copied both ways, by no way that is stated."""
    engine = running("sd3", 1, "plain")
    engine.state("0").latents = torch.zeros(8, 12, 12)
    with Copies() as seen:
        engine.step()
    assert len(seen.hidden) >= 2
    assert any("(8, 12, 12)" in each for each in seen.hidden)


def test_copies_are_told_from_each_other() -> None:
    """The negative controls of what is counted: numbers too, and whatever reads a value or mixes devices raises."""
    here, there = torch.zeros(3), torch.zeros(3, device=GPU)
    with Copies() as stated:
        uploaded(here, GPU)
        fetched([there, there])
        there * torch.tensor(2.0)
    assert (len(stated.up), len(stated.down), stated.hidden) == (1, 2, [])
    with Copies() as hidden:
        here.to(GPU, non_blocking=True)
        there.cpu()
        there[0] = here[0]
    assert len(hidden.hidden) == 3
    with pytest.raises(RuntimeError, match="same device"):
        there + here
    with pytest.raises(DataDependentOutputException):
        there[0].item()
    assert STEPS > CHECK_EVERY_STEPS
