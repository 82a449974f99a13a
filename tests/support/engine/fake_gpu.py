"""A GPU that is not there: a device of fake tensors, which have shapes and no contents, and small models on it.

An operator over tensors of two devices raises, and so does whatever would read a value.  A number on the CPU that has
no dimension may meet a tensor anywhere, but copying it is a copy like any other.
"""

import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
)
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import TemplateStore
from lego_serve.models.controlnet.flux import FluxControlNet
from lego_serve.models.controlnet.sd3 import Sd3ControlNet
from lego_serve.models.families.flux import FluxBackbone
from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.controlnet_source import ControlNetSource, ControlNetSpec
from lego_serve.models.ragged.device import fetched, uploaded
from lego_serve.models.sampling import FlowMatchTables, Schedule
from tests.support.engine.emulated_device import GPU, NAME

SD3: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4,
    "joint_attention_dim": 48, "caption_projection_dim": 64, "pooled_projection_dim": 32, "pos_embed_max_size": 24,
    "qk_norm": "rms_norm", "dual_attention_layers": (0,),
}  # fmt: skip
SD3_NET: dict[str, Any] = SD3 | {"num_layers": 2, "extra_conditioning_channels": 0}
FLUX: dict[str, Any] = {
    "in_channels": 32, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 48, "pooled_projection_dim": 32, "guidance_embeds": True, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
FLUX_NET: dict[str, Any] = FLUX | {"num_single_layers": 1}


class Copies(TorchDispatchMode):
    """Notes what is copied to the GPU and what comes back, and which of it is not by the two ways that are stated.

    ``up`` and ``down``: the copies by ``uploaded``, which the host does not wait for, and those by ``fetched``, all
    of which it waits for once.  ``hidden``: the operators of any other copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.up: list[torch.Tensor] = []
        self.down: list[torch.Tensor] = []
        self.hidden: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look at the devices of its inputs and outputs."""
        out = func(*args, **(kwargs or {}))
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        outputs = [each for each in tree_leaves(out) if isinstance(each, torch.Tensor)]
        kinds = {each.device.type for each in outputs}
        is_copy = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if NAME in kinds:
            crossed = [each for each in inputs if each.device.type == "cpu" and (each.dim() > 0 or is_copy)]
            self._note(crossed, self.up, uploaded, func)
        elif "cpu" in kinds:
            self._note([each for each in inputs if each.device.type == NAME], self.down, fetched, func)
        return out

    def _note(self, crossed: list[torch.Tensor], stated: list[torch.Tensor], way: Any, func: Any) -> None:
        if not crossed:
            return
        if _is_within(way.__code__):
            stated += crossed
        else:
            self.hidden.append(f"{func}: {[tuple(each.shape) for each in crossed]}")


def _is_within(code: CodeType) -> bool:
    """Whether a function is under way."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


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


def backbone_of(family: str) -> Backbone:
    """A small model of a family on the GPU; to be called under a fake mode, as all that follows."""
    backbone: Any
    if family == "sd3":
        backbone = Sd3Backbone(on_gpu(SD3Transformer2DModel, SD3), 8)
    else:
        backbone = FluxBackbone(on_gpu(FluxTransformer2DModel, FLUX), 8)
    backbone.linear_ops.batch_invariant = False  # the probe of products compares values
    return backbone


def controlnet_of(family: str, name: str = "net") -> ControlNetSource:
    """A small ControlNet of a family on the GPU."""
    net: Any
    if family == "sd3":
        net = Sd3ControlNet(on_gpu(SD3ControlNetModel, SD3_NET), net_spec(family, name), 0.1)
    else:
        net = FluxControlNet(on_gpu(FluxControlNetModel, FLUX_NET), net_spec(family, name))
    net.linear_ops.batch_invariant = False
    return net  # type: ignore[no-any-return]


def net_spec(family: str, name: str = "net") -> ControlNetSpec:
    """What a small ControlNet takes and gives."""
    doubles, singles = (2, 0) if family == "sd3" else (1, 1)
    return ControlNetSpec(name, width=64, doubles=doubles, singles=singles, channels=8, share=0.5)


def engine_of(
    backbone: Backbone,
    controls: Mapping[str, ControlNetSource] | None = None,
    mode: LoraMode = LoraMode.GROUPED,
    coding: str = "bfloat16",
) -> StepEngine:
    """An engine over a backbone, with ControlNets, a way of adapters and a coding of what is kept."""
    with unset_fake_temporarily():
        tables = RealTables(FlowMatchEulerDiscreteScheduler(shift=3.0), explicit_sigmas=not backbone.uses_cfg)
    batcher = StepBatcher(fifo, StepLimits(max_rows=8192), adapters=mode)
    store = TemplateStore(1 << 30, lambda: 0.0, coding)
    return StepEngine(backbone, tables, batcher, lambda: 0.0, controls, templates=store)
