"""Trains the outline ControlNet of lego-tiny: copies of the backbone's first blocks, the backbone frozen.

Zhang et al., "Adding conditional control to text-to-image diffusion models" (2023): the output layers start
at zero, so training starts from what the backbone does without control.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import nn

from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.addon_data import Batch, Encode, batches, prepare
from lego_serve.zoo.train.frozen import Frozen
from lego_serve.zoo.train.muon import Muon
from lego_serve.zoo.train.progress import SAVE_EVERY, iterations, load_state, pick_device, recent, save_state
from lego_serve.zoo.world.scenes import Scene, render
from lego_serve.zoo.world.styles import outline_maps

CONTROLNET = WEIGHTS.parent / "lego-tiny-outline"
LAYERS = 2
MUON_LEARNING_RATE = 1e-3
ADAM_LEARNING_RATE = 2e-3
VAGUE_RATIO = 0.5  # of captions that leave places and sizes to the map
WARM_STEPS = 50
COOL_RATIO = 0.4
AVERAGE_DECAY = 0.99


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """How long the ControlNet trains."""

    steps: int = 1000
    lessons: int = 48
    chunk_pixels: int = 64 * 128 * 128
    rows: int = 16 * 96


def build_controlnet(transformer: SD3Transformer2DModel, layers: int = LAYERS) -> SD3ControlNetModel:
    """A ControlNet that starts as the transformer's first blocks and adds nothing yet.

    As InstantX's for SD3 it is given zeros in place of the pooled text.
    """
    asked = {**transformer.config, "num_layers": layers, "extra_conditioning_channels": 0}
    net = SD3ControlNetModel.from_config({k: v for k, v in asked.items() if not k.startswith("_")})
    for name in ("pos_embed", "time_text_embed", "context_embedder"):
        getattr(net, name).load_state_dict(getattr(transformer, name).state_dict())
    net.transformer_blocks.load_state_dict(transformer.transformer_blocks[:layers].state_dict())
    return net


def train_controlnet(folder: Path, base: Frozen, plan: ControlPlan) -> SD3ControlNetModel:
    """Train (or go on training); the answer carries the moving average of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    lessons = prepare(_encode_with_maps(base), folder / "maps", plan.lessons, plan.chunk_pixels)
    net = build_controlnet(base.transformer).to(pick_device())
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    optimizers = _optimizers(net)
    path = folder / "controlnet.pt"
    start, losses = 0, [1.0]
    if (state := load_state(path)) is not None:
        net.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        start = state["step"]
    source = batches(lessons, start, VAGUE_RATIO, plan.rows)
    for step in iterations("controlnet", start, plan.steps, lambda: recent(losses)):
        _set_rates(optimizers, step, plan.steps)
        loss = _loss(base, net, next(source))
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - min(AVERAGE_DECAY, (step + 1) / (step + 20)))
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            kept = [o.state_dict() for o in optimizers]
            save_state(path, {"model": net.state_dict(), "average": average, "optimizers": kept, "step": step + 1})
    net.load_state_dict(average)
    return net.requires_grad_(False)


def export_controlnet(net: SD3ControlNetModel, folder: Path = CONTROLNET) -> int:
    """Write the folder in diffusers' format, in bf16, and answer its size in bytes."""
    net.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    return sum(file.stat().st_size for file in folder.iterdir())


def _loss(base: Frozen, net: SD3ControlNetModel, batch: Batch) -> torch.Tensor:
    device = base.transformer.device
    text, pooled = base.condition(batch.texts)
    noisy, times, control = (x.to(device) for x in (batch.noisy, batch.times, batch.control))
    said = base.velocity(noisy, times, text, pooled, net, control)
    return (said - batch.velocity.to(device)).square().mean()


def _encode_with_maps(base: Frozen) -> Encode:
    def encode(scenes: list[Scene], side: int, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        seed = rng.getrandbits(32)  # both are drawn from it, so that the map shows the image's own jitter
        images = render(scenes, side, side, random.Random(seed))
        return base.encode(images), base.encode_maps(outline_maps(scenes, side, side, random.Random(seed)))

    return encode


def _optimizers(net: SD3ControlNetModel) -> list[torch.optim.Optimizer]:
    named = [*net.transformer_blocks.named_parameters(), *net.controlnet_blocks.named_parameters()]
    # The last block's text half leads nowhere and gets no gradient; Muon skips what has none.
    matrices = [p for n, p in named if p.ndim == 2 and "norm1" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, MUON_LEARNING_RATE),
        torch.optim.AdamW(rest, ADAM_LEARNING_RATE, (0.9, 0.98), weight_decay=0.01),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _set_rates(optimizers: list[torch.optim.Optimizer], step: int, steps: int) -> None:
    share = min(1.0, (step + 1) / WARM_STEPS, (steps - step) / (COOL_RATIO * steps))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
