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
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.step_engine import StepEngine
from lego_serve.models.families.flux import FluxBackbone
from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.ragged.conditioning import Conditioning
from lego_serve.models.sampling import FlowMatchTables, Schedule

SD3: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4,
    "joint_attention_dim": 48, "caption_projection_dim": 64, "pooled_projection_dim": 32, "pos_embed_max_size": 24,
    "qk_norm": "rms_norm", "dual_attention_layers": (0,),
}  # fmt: skip
FLUX: dict[str, Any] = {
    "in_channels": 32, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 48, "pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
# A device that torch is told of in Python: a build without CUDA cannot index a tensor that is said to be on one.
NAME = "fakegpu"
_setup_privateuseone_for_python_backend(NAME)
GPU = torch.device(NAME, 0)
# What a step takes from the CPU: the layout of its batch and the times of its branches, in copies that do not wait.
STATED = 6


class Copies(TorchDispatchMode):
    """Notes what is copied to the GPU, but for single numbers, and what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.up: list[torch.Tensor] = []
        self.down: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look at the devices of its inputs and outputs."""
        out = func(*args, **(kwargs or {}))
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        kinds = {each.device.type for each in tree_leaves(out) if isinstance(each, torch.Tensor)}
        if NAME in kinds:
            self.up += [each for each in inputs if each.device.type == "cpu" and each.dim() > 0]
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


def engine_of(family: str) -> StepEngine:
    """A small model of a family on the GPU; to be called under a fake mode."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, SD3Transformer2DModel

    if family == "sd3":
        backbone: Any = Sd3Backbone(on_gpu(SD3Transformer2DModel, SD3), 8)
    else:
        backbone = FluxBackbone(on_gpu(FluxTransformer2DModel, FLUX), 8)
    backbone.linear_ops.batch_invariant = False  # the probe of products compares values
    with unset_fake_temporarily():
        tables = RealTables(FlowMatchEulerDiscreteScheduler(shift=3.0), explicit_sigmas=family == "flux")
    return StepEngine(backbone, tables, StepBatcher(fifo, StepLimits(max_rows=4096)), lambda: 0.0)


def lanes(engine: StepEngine, count: int) -> list[LaneRequest]:
    """Of two sizes and both samplers, half of them on grids, guided where the model knows it."""
    backbone = engine._backbone
    requests = []
    for index in range(count):
        cond, negative = (
            Conditioning(torch.zeros(7, backbone.text_width), torch.zeros(backbone.pooled_width)) for _ in range(2)
        )
        other = negative if backbone.uses_cfg else None
        sampler = ("euler", "dpmpp_2m")[index // 2 % 2]
        lane = LaneRequest(str(index), 96, 96 + 32 * (index % 2), 6, 4.0, index, cond, other, sampler=sampler)
        requests.append(replace(lane, grid=Grid(sampler, shifted_sigmas(4, 3.0, 0.001)) if index % 2 else None))
    return requests


def copies(family: str, count: int) -> Copies:
    """What the third step over so many lanes copies; none of them may fail in it."""
    engine = engine_of(family)
    for lane in lanes(engine, count):
        assert engine.add(lane).latents.device.type == NAME
    for _ in range(2):
        assert engine.step() == []
    with Copies() as seen:
        assert engine.step() == []
    assert len(engine.advanced) == count
    assert all(each.device.type == NAME for state in engine.advanced for each in (state.latents, *state.history))
    return seen


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_step_on_a_gpu_reads_nothing_back_and_mixes_no_devices(family: str) -> None:
    """And copies no more for many lanes than for few: the batch's layout and its times."""
    with FakeTensorMode():
        few, many = copies(family, 2), copies(family, 8)
    assert few.down == many.down == []
    assert len(few.up) == len(many.up) <= STATED
    assert all(each.dtype == torch.int64 or each.numel() <= 2 * 8 + 8 for each in many.up)


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
