"""Whole steps on a GPU that is not there: torch's fake tensors have shapes and devices, and no contents.

An operator over tensors of two devices raises, and so does whatever would read a value: what passes here runs on a GPU
without a copy or a wait that is not stated.  Numbers on the CPU that have no dimension may meet a tensor anywhere.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lego_serve.core.editing.reuse import Quality, ReusePlan
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.engine.edits import Edit, LaneEdit, PrimingPrompt
from lego_serve.engine.lane_state import LaneRequest, LaneState
from lego_serve.engine.rows.references import LaneReference
from lego_serve.engine.step.priming import PrimingBatch
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import Template, TemplateStore
from lego_serve.models.families.flux import FluxBackbone
from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.linear_kinds.fp8_rows import use_fp8_rows
from lego_serve.models.ragged.linear_kinds.int8_rows import use_int8_rows
from lego_serve.models.ragged.linear_kinds.sparse24_rows import use_sparse24_rows
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.sampling import FlowMatchTables, Schedule
from tests.support.engine.emulated_device import GPU, NAME
from tests.support.engine.residuals import residuals_of

SD3: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4,
    "joint_attention_dim": 48, "caption_projection_dim": 64, "pooled_projection_dim": 32, "pos_embed_max_size": 24,
    "qk_norm": "rms_norm", "dual_attention_layers": (0,),
}  # fmt: skip
FLUX: dict[str, Any] = {
    "in_channels": 32, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 48, "pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
# What a step takes from the CPU: the layout of its batch and the times of its branches, in copies that do not wait.
# ``lcm`` takes the noise of each lane besides, which has the same bits whatever device the lane runs on.
STATED = 6
KINDS = ("plain", "own rows", "block rows", "references", "edit", "lcm")


class Copies(TorchDispatchMode):
    """Notes what is copied to the GPU, but for single numbers, and what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.up: list[torch.Tensor] = []
        self.waited_for: list[str] = []
        self.down: list[str] = []

    @property
    def noises(self) -> list[torch.Tensor]:
        """Of what was copied to the GPU, that shaped like latents."""
        return [each for each in self.up if each.dim() == 3]

    @property
    def layout(self) -> list[torch.Tensor]:
        """Of what was copied to the GPU, all else."""
        return [each for each in self.up if each.dim() != 3]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look at the devices of its inputs and outputs."""
        out = func(*args, **(kwargs or {}))
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        kinds = {each.device.type for each in tree_leaves(out) if isinstance(each, torch.Tensor)}
        if NAME in kinds:
            copied = [each for each in inputs if each.device.type == "cpu" and each.dim() > 0]
            self.up += copied
            self.waited_for += [str(func)] if copied and not (kwargs or {}).get("non_blocking", False) else []
        elif "cpu" in kinds and any(each.device.type == NAME for each in inputs):
            self.down.append(str(func))
        return out


class RealTables(FlowMatchTables):
    """Sigmas are numbers of the CPU, made before a lane's first step."""

    def schedule(self, sampler: str, steps: int, tokens: int) -> Schedule:
        """As served, with real tensors."""
        with unset_fake_temporarily():
            return super().schedule(sampler, steps, tokens)


def on_gpu(cls: Any, config: dict[str, Any]) -> Any:
    """A module whose weights are fake tensors; filling them in place would ask for a driver."""
    with torch.device("meta"):
        module = cls(**config)
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, device=GPU), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
    return module


def engine_of(family: str, kind: str = "plain") -> StepEngine:
    """A small model of a family on the GPU, of the linear layers that a kind names; to be called under a fake mode."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, SD3Transformer2DModel

    if family == "sd3":
        backbone: Any = Sd3Backbone(on_gpu(SD3Transformer2DModel, SD3), 8)
    else:
        backbone = FluxBackbone(on_gpu(FluxTransformer2DModel, FLUX), 8)
    backbone.linear_ops.batch_invariant = False  # the probe of products compares values
    if kind == "int8":
        use_int8_rows(backbone, "a model")
    if kind == "fp8":
        use_fp8_rows(backbone, "a model")
    if kind == "sparse24":
        use_sparse24_rows(backbone, "a model", residuals_of(backbone))
    if kind == "block rows":
        backbone.router = BlockRouter.drawn(3, 64, seed=0).on(GPU, backbone.linear_ops)
    with unset_fake_temporarily():
        tables = RealTables(FlowMatchEulerDiscreteScheduler(shift=3.0), explicit_sigmas=family == "flux")
    batcher, store = StepBatcher(fifo, StepLimits(max_rows=8192)), TemplateStore(1 << 30, lambda: 0.0)
    return StepEngine(backbone, tables, batcher, lambda: 0.0, templates=store)


def lanes(engine: StepEngine, count: int, kind: str = "plain") -> list[LaneRequest]:
    """Of two sizes and two samplers, half of them on grids, guided where the model knows it; of a kind."""
    backbone = engine._backbone
    requests = []
    for index in range(count):
        cond, negative = (
            Conditioning(torch.zeros(7, backbone.text_width), torch.zeros(backbone.pooled_width)) for _ in range(2)
        )
        other = negative if backbone.uses_cfg else None
        sampler = "lcm" if kind == "lcm" else ("euler", "dpmpp_2m")[index // 2 % 2]
        lane = LaneRequest(str(index), 96, 96 + 32 * (index % 2), 6, 4.0, index, cond, other, sampler=sampler)
        own = OwnRows(0.5, warm=1, every=5) if kind == "own rows" else None  # the second and third step are sparse
        blocks = BlockRows(((1.0, 0.5, 0.3),) * 6) if kind == "block rows" else None
        grid = Grid(sampler, shifted_sigmas(4, 3.0, 0.001)) if index % 2 else None
        requests.append(replace(lane, grid=grid, own_rows=own, block_rows=blocks))
    return requests


def give(state: LaneState, engine: StepEngine, kind: str) -> None:
    """Give a lane what is made ready from values, which fake tensors do not have: a reference, or an edit."""
    backbone, latents = engine._backbone, state.latents
    if kind == "references":
        nothing = PreparedPrompt(state.cond.tokens[:0], state.cond.pooled)
        reference = torch.zeros(latents.shape[0], 8, 6, device=GPU)
        state.references = (LaneReference(reference, nothing, "a reference", 1, 12),)
    if kind == "edit":
        width = latents.shape[2]
        template = Template(f"of width {width}", torch.zeros_like(latents), torch.zeros_like(latents))
        words = Conditioning(torch.zeros(5, backbone.text_width), torch.zeros(backbone.pooled_width))
        prompts = (PrimingPrompt(backbone.prepare(words), "words", keeps_text=False),) * 2
        mask = torch.zeros(latents.shape[1:], dtype=torch.bool, device=GPU)
        edit = Edit(template, mask, Quality.HIGH, (words, words))
        active, steps = torch.zeros(9, dtype=torch.int64, device=GPU), state.schedule.steps
        state.edit = LaneEdit(edit, active, mask.numel() // 4, ReusePlan((0,) * steps), prompts)


def priming(engine: StepEngine) -> PrimingBatch:
    """The passes that a step's lanes need, none yet."""
    return PrimingBatch(engine._backbone, engine.templates, engine._batcher.rates)


def copies(family: str, count: int, kind: str) -> Copies:
    """What the third step over so many lanes of a kind copies; none of them may fail in it."""
    engine = engine_of(family, kind)
    for lane in lanes(engine, count, kind):
        state = engine.add(lane)
        assert state.latents.device.type == NAME
        give(state, engine, kind)
    for _ in range(2):
        assert engine.step() == []
    with Copies() as seen:
        assert engine.step() == []
    assert len(engine.advanced) == count
    assert all(each.device.type == NAME for state in engine.advanced for each in (state.latents, *state.history))
    return seen


@pytest.mark.parametrize(
    "kind", ["plain", "own rows", "block rows", "references", "edit", "lcm", "int8", "fp8", "sparse24"]
)
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_step_on_a_gpu_reads_nothing_back_and_mixes_no_devices(family: str, kind: str) -> None:
    """And copies no more for many lanes than for few: the batch's layout and its times, and the noise of ``lcm``."""
    with FakeTensorMode():
        few, many = copies(family, 2, kind), copies(family, 8, kind)
    assert few.down == many.down == []
    assert few.waited_for == many.waited_for == []
    assert (len(few.noises), len(many.noises)) == ((2, 8) if kind == "lcm" else (0, 0))
    assert len(few.layout) == len(many.layout) <= STATED
    assert all(each.dtype == torch.int64 or each.numel() <= 2 * 8 + 8 for each in many.layout)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_lanes_of_a_kind_do_what_they_are_named_for(family: str) -> None:
    """A step computes a part of the rows, of lanes with own rows and of edits; references are filled once for all."""
    with FakeTensorMode():
        for kind, seen in (("own rows", 4), ("edit", 4)):
            engine = engine_of(family, kind)
            for lane in lanes(engine, 4, kind):
                give(engine.add(lane), engine, kind)
            engine.step()
            inputs = [engine._setup.lane_input(engine.state(str(i)), priming(engine)) for i in range(4)]
            assert sum(lane.reuse is not None for lane in inputs) == seen
        engine = engine_of(family, "block rows")
        for lane in lanes(engine, 4, "block rows"):
            engine.add(lane)
        engine.step()
        inputs = [engine._setup.lane_input(engine.state(str(i)), priming(engine)) for i in range(4)]
        assert [lane.block_rows for lane in inputs] == [(36, 18, 10), (48, 24, 14)] * 2
        engine = engine_of(family, "references")
        for lane in lanes(engine, 4, "references"):
            give(engine.add(lane), engine, "references")
        engine.step()
        assert engine.templates.entries == 1


def test_a_lane_on_another_device_is_noticed() -> None:
    """The negative controls: latents on the CPU are copied both ways; mixed devices and values that are read raise."""
    with FakeTensorMode():
        engine = engine_of("sd3")
        [lane] = lanes(engine, 1)
        engine.add(lane).latents = torch.zeros(8, 12, 12)
        with Copies() as seen:
            engine.step()
        assert seen.down
        assert max(copied.numel() for copied in seen.up) >= 8 * 12 * 12
        with pytest.raises(RuntimeError, match="same device"):
            torch.zeros(3, device=GPU) + torch.zeros(3)
        with pytest.raises(DataDependentOutputException):
            torch.zeros(1, device=GPU).item()
