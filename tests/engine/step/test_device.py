"""What a step moves between the model's device and the rest, shown on a device without memory.

A tensor on torch's ``meta`` device has a shape and no contents.  Whatever would fetch from it, or wait for what it
holds, raises: ``item``, ``nonzero``, a branch on a value, a copy to the CPU.  What goes the other way is counted.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lego_serve.core.editing.reuse import Quality
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.edits import Edit
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.errors import NodeError
from lego_serve.models.loading import load_backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.registry import ModelSpec

META = torch.device("meta")


class Crossings(TorchDispatchMode):
    """Notes the tensors, but for single numbers, that an operator takes from the CPU for a result on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.up: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look at its inputs and outputs."""
        out = func(*args, **(kwargs or {}))
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        outputs = [each for each in tree_leaves(out) if isinstance(each, torch.Tensor)]
        if any(each.device == META for each in outputs):
            self.up += [each for each in inputs if each.device.type == "cpu" and each.dim() > 0]
        return out


def engine_on_meta(folder: Path, family: str) -> StepEngine:
    """A model of which only shapes are known."""
    length = 8 if family == "flux" else 0
    spec = ModelSpec("m", str(folder), family, dtype="float32", device="meta", max_sequence_length=length)
    backbone, tables = load_backbone(spec)
    backbone.linear_ops.batch_invariant = False  # the probe of products compares values
    store = TemplateStore(64 * 2**20, lambda: 0.0)
    return StepEngine(backbone, tables, StepBatcher(fifo, StepLimits(max_rows=4096)), lambda: 0.0, templates=store)


def lanes(engine: StepEngine, count: int) -> list[LaneRequest]:
    """Of several sizes and both samplers, guided where the model knows it; the odd ones edit a template each."""
    backbone = engine._backbone
    requests = []
    for index in range(count):
        draw = torch.Generator().manual_seed(index)
        cond, negative = (
            Conditioning(
                torch.randn(7, backbone.text_width, generator=draw), torch.randn(backbone.pooled_width, generator=draw)
            )
            for _ in range(2)
        )
        size = 96, 96 + 32 * (index % 2)
        other = negative if backbone.uses_cfg else None
        sampler = ("euler", "dpmpp_2m")[index // 2 % 2]
        lane = LaneRequest(str(index), *size, 6, 4.0, index, cond, other, sampler=sampler)
        if index % 2:
            template = Template.of(torch.randn(backbone.shape.of(*size), generator=draw), index)
            mask = torch.zeros(template.latents.shape[1:], dtype=torch.bool)
            mask[2:7, 1:4] = True
            lane = replace(lane, edit=Edit(template, mask, Quality.HIGH, (cond, other or cond)))
        requests.append(lane)
    return requests


def crossings(engine: StepEngine, count: int) -> list[torch.Tensor]:
    """What the third step over so many lanes takes from the CPU; none of them may fail in it."""
    for lane in lanes(engine, count):
        state = engine.add(lane)
        assert state.latents.device == META
    for _ in range(2):
        assert engine.step() == []
    with Crossings() as seen:
        assert engine.step() == []
    for state in engine.advanced:
        assert {each.device for each in (state.latents, *state.history)} == {META}
    assert len(engine.advanced) == count
    return seen.up


def check(folder: Path, family: str) -> None:
    """Lengths and times alone cross, in as many copies for many lanes as for few; no latents and no noise do."""
    few, many = (crossings(engine_on_meta(folder, family), count) for count in (2, 6))
    assert len(few) == len(many) <= 6
    for copied in many:
        assert copied.dtype == torch.int64 or copied.numel() <= 2 * 6 + 6, "an index of rows, or a number a branch"


def test_a_step_of_sd3_moves_no_lane(tiny_folder: Path) -> None:
    """Plain and edited ones, both of whose samplers keep something from step to step."""
    check(tiny_folder, "sd3")


def test_a_step_of_flux_moves_no_lane(flux_folder: Path) -> None:
    """The same of the other family."""
    check(flux_folder, "flux")


def test_a_lane_that_lies_elsewhere_is_noticed(tiny_folder: Path) -> None:
    """The negative control: latents on the CPU would have to be fetched from the device in every step."""
    engine = engine_on_meta(tiny_folder, "sd3")
    [lane] = lanes(engine, 1)
    state = engine.add(lane)
    state.latents = torch.zeros(state.latents.shape)
    with Crossings() as seen:
        [(_, outcome)] = engine.step()
    assert isinstance(outcome, NodeError)
    assert isinstance(outcome.__cause__, NotImplementedError)
    assert [copied.dtype for copied in seen.up if copied.numel() > 100 and copied.dtype != torch.int64]


def test_what_is_gone_on_with_goes_to_the_device(tiny_folder: Path) -> None:
    """A checkpoint's latents and history."""
    engine = engine_on_meta(tiny_folder, "sd3")
    [lane] = lanes(engine, 1)
    here = load_backbone(ModelSpec("m", str(tiny_folder), dtype="float32", max_sequence_length=0))
    first = StepEngine(*here, StepBatcher(fifo, StepLimits()), lambda: 0.0)
    first.add(replace(lane, sampler="dpmpp_2m"))
    first.step()
    state = engine.add(replace(lane, sampler="dpmpp_2m", checkpoint=first.checkpoint("0")))
    assert len(state.history) == 1
    assert {each.device for each in (state.latents, *state.history)} == {META}
