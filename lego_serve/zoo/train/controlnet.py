"""Trains the outline ControlNet of lego-tiny: copies of the backbone's first blocks, the backbone frozen.

Zhang et al., "Adding conditional control to text-to-image diffusion models" (2023): the output layers start
at zero, so training starts from what the backbone does without control.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import nn

from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.addon_data import batch_at, encode_with_maps, prepare, velocity_error
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.train.optimizers import muon_and_adam, others, scale_rates, update_average
from lego_serve.zoo.train.progress import TrainingState, iterations, pick_device, recent
from lego_serve.zoo.world.scenes import render

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
    """How long the ControlNet trains, and on how much data."""

    steps: int = 1000
    chunks: int = 48
    chunk_pixels: int = 64 * 128 * 128
    rows: int = 16 * 96


def build_controlnet(transformer: SD3Transformer2DModel, layers: int = LAYERS) -> SD3ControlNetModel:
    """Return a ControlNet that starts as the transformer's first blocks and adds nothing yet.

    Like InstantX's for SD3 it gets zeros in place of the pooled text.
    """
    config = {**transformer.config, "num_layers": layers, "extra_conditioning_channels": 0}
    net = SD3ControlNetModel.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    for name in ("pos_embed", "time_text_embed", "context_embedder"):
        getattr(net, name).load_state_dict(getattr(transformer, name).state_dict())
    net.transformer_blocks.load_state_dict(transformer.transformer_blocks[:layers].state_dict())
    return net


def train_controlnet(folder: Path, base: FrozenFamily, plan: ControlPlan) -> SD3ControlNetModel:
    """Train (or resume training) and return the moving average of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = prepare(encode_with_maps(base, render), folder / "maps", plan.chunks, plan.chunk_pixels)
    net = build_controlnet(base.transformer).to(pick_device())
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimizers = _optimizers(net)
    state = TrainingState(folder / "controlnet.pt", net, optimizers, average)
    start, losses = state.resume(), [1.0]
    for step in iterations("controlnet", start, plan.steps, lambda: recent(losses)):
        scale_rates(optimizers, min(1.0, (step + 1) / WARM_STEPS, (plan.steps - step) / (COOL_RATIO * plan.steps)))
        loss = velocity_error(base, batch_at(chunks, step, VAGUE_RATIO, plan.rows), net)
        net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        update_average(average, net, min(AVERAGE_DECAY, (step + 1) / (step + 20)))
        state.save_if_due(step, plan.steps)
    net.load_state_dict(average)
    return net.requires_grad_(False)


def export_controlnet(net: SD3ControlNetModel, folder: Path = CONTROLNET) -> int:
    """Write the folder in diffusers' format, in bf16, and return its size in bytes."""
    net.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    return sum(file.stat().st_size for file in folder.iterdir())


def _optimizers(net: SD3ControlNetModel) -> list[torch.optim.Optimizer]:
    named = [*net.transformer_blocks.named_parameters(), *net.controlnet_blocks.named_parameters()]
    # The last block's text half leads nowhere and gets no gradient; Muon skips what has none.
    matrices = [p for n, p in named if p.ndim == 2 and "norm1" not in n]
    adam = torch.optim.AdamW(others(net, matrices), ADAM_LEARNING_RATE, (0.9, 0.98), weight_decay=0.01)
    return muon_and_adam(matrices, MUON_LEARNING_RATE, adam)
