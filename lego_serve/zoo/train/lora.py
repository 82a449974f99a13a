"""Trains a style adapter: low-rank updates of the linear layers of a frozen backbone, on styled images.

In part of the batches the frozen ControlNet adds its residuals for the images' outline maps: an adapter that never
trained beside it spoils the images that both take part in.
"""

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel
from torch import nn

from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.addon_data import batch_at, encode_with_maps, prepare, velocity_error
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.train.lora_modules import (
    FILE_NAME,
    LowRankLinear,
    LowRankPair,
    attach,
    attention_layers,
    block_layers,
    pairs_of,
)
from lego_serve.zoo.train.progress import is_save_due, iterations, load_state, recent, save_state
from lego_serve.zoo.world.styles import render_styled

ADAPTERS = WEIGHTS.parent / "adapters"
RANKS = {"stripes": 4, "outline": 16, "frame": 32}
ATTENTION_ONLY = ("frame",)  # the others change the feed-forward layers too
LEARNING_RATE = 4e-3  # at rank 4; a higher rank moves the weights further by the same steps
STEPS = {"stripes": 1750, "outline": 3500, "frame": 1800}
CHUNKS = 48
CONTROLLED_RATIO = 0.5  # of batches train beside the ControlNet, where one is given
VAGUE_RATIO = 0.5  # of captions in those leave places and sizes to the map


def adapter_file(style: str) -> Path:
    """Return the file that the adapter of a style ships in."""
    return ADAPTERS / adapter_id(style) / FILE_NAME


def adapter_id(style: str) -> str:
    """Return the name that the adapter of a style ships under, such as ``stripes-r4``."""
    return f"{style}-r{RANKS[style]}"


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """How long an adapter trains; a tenth of the batches' captions is empty, as guidance needs."""

    steps: int = 1800
    chunks: int = CHUNKS
    chunk_pixels: int = 64 * 128 * 128
    rows: int = 16 * 96
    controlled_ratio: float = CONTROLLED_RATIO


def train_lora(
    folder: Path, base: FrozenFamily, style: str, plan: LoraPlan, net: SD3ControlNetModel | None = None
) -> dict[str, LowRankPair]:
    """Train (or resume training) the adapter of a style; ``base`` carries it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    encode = encode_with_maps(base, partial(render_styled, style=style))
    chunks = prepare(encode, folder / f"{style}-maps", plan.chunks, plan.chunk_pixels)
    layers = attention_layers if style in ATTENTION_ONLY else block_layers
    parts = attach(base.transformer, RANKS[style], layers(base.transformer))
    trained = nn.ModuleList(parts.values()).to(base.transformer.device)
    weights = [p for p in trained.parameters() if p.requires_grad]
    peak = LEARNING_RATE * (4 / RANKS[style]) ** 0.5
    optimizer = torch.optim.AdamW(weights, peak, (0.9, 0.98), weight_decay=0.0)
    path = folder / f"{adapter_id(style)}.pt"
    start, losses = 0, [1.0]
    if (state := load_state(path)) is not None:
        _load_pairs(parts, state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in iterations(adapter_id(style), start, plan.steps, lambda: recent(losses)):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 20, 2 * (plan.steps - step) / plan.steps)
        used_net = net if random.Random(f"controlled {step}").random() < plan.controlled_ratio else None
        loss = velocity_error(base, batch_at(chunks, step, VAGUE_RATIO if used_net else 0.0, plan.rows), used_net)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if is_save_due(step, plan.steps):
            pairs = {name: [pair.down, pair.up] for name, pair in pairs_of(parts).items()}
            save_state(path, {"adapter": pairs, "optimizer": optimizer.state_dict(), "step": step + 1})
    return pairs_of(parts)


def _load_pairs(parts: dict[str, LowRankLinear], pairs: dict[str, list[torch.Tensor]]) -> None:
    for name, part in parts.items():
        down, up = pairs[name]
        part.down.data.copy_(down)
        part.up.data.copy_(up)
