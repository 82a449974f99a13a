"""Lanes of every kind on a GPU that is not there, and the engines that run them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from lego_serve.core.editing.reuse import Quality, ReusePlan
from lego_serve.core.scheduling.lora_mode import LoraMode
from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.grids import Grid, shifted_sigmas
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.engine.controlnets import ControlNetUse, LaneControlNet
from lego_serve.engine.edits import Edit, LaneEdit, PrimingPrompt
from lego_serve.engine.lane_state import AdapterUse, LaneRequest, LaneState
from lego_serve.engine.rows.references import LaneReference
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import Template
from lego_serve.models.controlnet.messages import ResidualBuffer, StepMessage, step_message
from lego_serve.models.lora.adapter import Adapter, Pair
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlImage, ControlNetLane, ControlNetSpec
from lego_serve.models.ragged.linear_kinds.fp8_rows import use_fp8_rows
from lego_serve.models.ragged.linear_kinds.int8_rows import use_int8_rows
from lego_serve.models.ragged.linear_kinds.sparse24_rows import use_sparse24_rows
from lego_serve.models.ragged.pruning.router import BlockRouter
from tests.support.engine.fake_gpu import GPU, backbone_of, controlnet_of, engine_of, net_spec
from tests.support.engine.residuals import residuals_of

STEPS = 6


@dataclass(slots=True)
class ElsewhereNet:
    """A ControlNet in another process, as far as a step sees it: its request goes out, its residuals come in."""

    spec: ControlNetSpec
    asked: list[StepMessage] = field(default_factory=list)

    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """The conditioning, under a name."""
        return PreparedPrompt(cond.tokens, cond.pooled, "words")

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """The image, under a name."""
        return ControlImage(latents, "image")

    def start(self, lanes: Sequence[ControlNetLane]) -> ResidualBuffer:
        """Answer at once, in the arrays that a wire brings."""
        self.asked.append(step_message(lanes))
        buffer = ResidualBuffer(self.spec.residuals, torch.float32, 1.0)
        rows = sum(lane.latents[0].numel() // 4 * (1 if lane.negative is None else 2) for lane in lanes)
        for index in range(self.spec.residuals):
            buffer.put(index, np.zeros((rows, self.spec.width), np.float32))
        return buffer


def engine_for(family: str, kind: str) -> StepEngine:
    """An engine whose model and ControlNets are such as lanes of a kind need."""
    backbone = backbone_of(family)
    if kind == "int8":
        use_int8_rows(backbone, "a model")
    if kind == "fp8":
        use_fp8_rows(backbone, "a model")
    if kind == "sparse24":
        use_sparse24_rows(backbone, "a model", residuals_of(backbone))
    if "block rows" in kind:
        backbone.router = BlockRouter.drawn(3, 64, seed=0).on(GPU, backbone.linear_ops)
    controls: dict[str, Any] = {}
    if kind == "controls":
        controls = {name: controlnet_of(family, name) for name in ("net", "other")}
    if kind == "controls elsewhere":
        controls = {name: ElsewhereNet(net_spec(family, name)) for name in ("net", "other")}
    mode = LoraMode.PATCHED if kind == "merged adapters" else LoraMode.GROUPED
    return engine_of(backbone, controls, mode, "int8" if kind == "primed edit" else "bfloat16")


def lanes(engine: StepEngine, count: int, kind: str = "plain") -> list[LaneRequest]:
    """Of two sizes and two samplers, half of them on grids, guided where the model knows it; of a kind."""
    backbone = engine._backbone
    adapters = [adapter(backbone, f"a{number}") for number in range(2)]
    requests = []
    for index in range(count):
        cond, negative = (_words(backbone, 7) for _ in range(2))
        other = negative if backbone.uses_cfg else None
        sampler = "lcm" if kind == "lcm" else ("euler", "dpmpp_2m")[index // 2 % 2]
        lane = LaneRequest(str(index), 96, 96 + 32 * (index % 2), STEPS, 4.0, index, cond, other, sampler=sampler)
        own = OwnRows(0.5, warm=1, every=5) if kind == "own rows" else None  # the second and third step are sparse
        blocks = BlockRows(((1.0, 0.5, 0.3),) * STEPS) if "block rows" in kind else None
        grid = Grid(sampler, shifted_sigmas(4, 3.0, 0.001)) if index % 2 else None
        uses: tuple[AdapterUse, ...] = ()
        if kind in ("adapters", "adapted block rows"):  # of two sets and of none in one batch
            uses = ((AdapterUse(adapters[0]),), (AdapterUse(adapters[0], 0.5), AdapterUse(adapters[1])), ())[index % 3]
        if kind == "merged adapters":
            uses = (AdapterUse(adapters[0], 0.7), AdapterUse(adapters[1]))
        requests.append(replace(lane, grid=grid, own_rows=own, block_rows=blocks, adapters=uses))
    return requests


def adapter(backbone: Backbone, name: str) -> Adapter:
    """An adapter of rank 4 for every layer, its weights where a file's are: on the CPU."""
    shapes = backbone.adapters.shapes
    pairs = {path: Pair(torch.zeros(4, wide), torch.zeros(tall, 4)) for path, (tall, wide) in shapes.items()}
    return Adapter(name, name, pairs)


def give(state: LaneState, engine: StepEngine, kind: str) -> None:
    """Give a lane what is made ready from values, which fake tensors do not have: a reference, an edit, ControlNets.

    An edit reads the same entry in all steps.  One that is to be primed computes its first step whole, reads its text
    rows too, and needs an entry of its own for every step.
    """
    backbone, latents = engine._backbone, state.latents
    if kind == "references":
        nothing = PreparedPrompt(state.cond.tokens[:0], state.cond.pooled)
        reference = torch.zeros(latents.shape[0], 8, 6, device=GPU)
        state.references = (LaneReference(reference, nothing, "a reference", 1, 12),)
    if "controls" in kind:
        state.controls = _controlnets(state, engine)
    if "edit" in kind:
        is_primed = kind == "primed edit"
        template = Template(f"of {latents.shape}", torch.zeros_like(latents), torch.zeros_like(latents))
        words = _words(backbone, 5)
        reads_text = is_primed and backbone.uses_cfg
        first, second = (
            PrimingPrompt(backbone.prepare(words), f"words {keeps}", keeps) for keeps in (False, reads_text)
        )
        mask = torch.zeros(latents.shape[1:], dtype=torch.bool, device=GPU)
        edit = Edit(template, mask, Quality.HIGH, (words, words))
        entries = (None, *range(1, state.schedule.steps)) if is_primed else (0,) * state.schedule.steps
        active = torch.zeros(9, dtype=torch.int64, device=GPU)
        plan = ReusePlan(entries)
        state.edit = LaneEdit(edit, active, mask.numel() // 4, plan, (first, second), reads_text)


def _controlnets(state: LaneState, engine: StepEngine) -> tuple[LaneControlNet, ...]:
    """The first ControlNet, and for half of the lanes the second too; their images are on the CPU."""
    nets = []
    for name, weight in (("net", 1.0), ("other", 0.5))[: 1 + int(state.request.key) // 2 % 2]:
        source, request = engine._setup._controls[name], state.request
        use = ControlNetUse(name, torch.zeros(state.latents.shape), weight)
        negative = None if request.negative is None else source.prepare(request.negative)
        nets.append(LaneControlNet(use, source, source.image(use.latents), source.prepare(request.cond), negative))
    return tuple(nets)


def _words(backbone: Backbone, rows: int) -> Conditioning:
    return Conditioning(torch.zeros(rows, backbone.text_width), torch.zeros(backbone.pooled_width))
