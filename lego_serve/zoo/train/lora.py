"""Trains a style adapter: low-rank updates of the linear layers of a frozen backbone, on styled images.

In part of the batches the frozen ControlNet adds what it has to say of the images' outline maps: an adapter that
never saw it spoils the images of the two together.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel
from torch import nn

from lego_serve.zoo.export import WEIGHTS
from lego_serve.zoo.train.addon_data import Batch, Encode, batch_at, prepare
from lego_serve.zoo.train.frozen import Frozen
from lego_serve.zoo.train.lora_modules import FILE_NAME, LowRank, Pair, attach, attention_layers, block_layers, pairs_of
from lego_serve.zoo.train.progress import SAVE_EVERY, iterations, load_state, recent, save_state
from lego_serve.zoo.world.scenes import Scene
from lego_serve.zoo.world.styles import outline_maps, render_styled

ADAPTERS = WEIGHTS.parent / "adapters"
RANKS = {"stripes": 4, "outline": 16, "frame": 32}
ATTENTION_ONLY = ("frame",)  # the others change the feed-forward layers too
LEARNING_RATE = 4e-3  # at rank 4; a higher rank moves the weights further by the same steps
STEPS = {"stripes": 1750, "outline": 3500, "frame": 1800}
LESSONS = 48
CONTROLLED_RATIO = 0.5  # of batches, where a ControlNet is given
VAGUE_RATIO = 0.5  # of captions in those: the map says what they leave out


def adapter_file(style: str) -> Path:
    """Where the adapter of a style is shipped."""
    return ADAPTERS / adapter_id(style) / FILE_NAME


def adapter_id(style: str) -> str:
    """The name an adapter is shipped under, such as ``stripes-r4``."""
    return f"{style}-r{RANKS[style]}"


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """How long an adapter trains; a tenth of the batches' captions is empty, as guidance needs."""

    steps: int = 1800
    lessons: int = LESSONS
    chunk_pixels: int = 64 * 128 * 128
    rows: int = 16 * 96
    controlled_ratio: float = CONTROLLED_RATIO


def train_lora(
    folder: Path, base: Frozen, style: str, plan: LoraPlan, net: SD3ControlNetModel | None = None
) -> dict[str, Pair]:
    """Train (or go on training) the adapter of a style; ``base`` carries it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    lessons = prepare(_encode_styled(base, style), folder / f"{style}-maps", plan.lessons, plan.chunk_pixels)
    layers = attention_layers if style in ATTENTION_ONLY else block_layers
    parts = attach(base.transformer, RANKS[style], layers(base.transformer))
    trained = nn.ModuleList(parts.values()).to(base.transformer.device)
    weights = [p for p in trained.parameters() if p.requires_grad]
    peak = LEARNING_RATE * (4 / RANKS[style]) ** 0.5
    optimizer = torch.optim.AdamW(weights, peak, (0.9, 0.98), weight_decay=0.0)
    path = folder / f"{adapter_id(style)}.pt"
    start, losses = 0, [1.0]
    if (state := load_state(path)) is not None:
        _load(parts, state["adapter"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in iterations(adapter_id(style), start, plan.steps, lambda: recent(losses)):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 20, 2 * (plan.steps - step) / plan.steps)
        used = net if random.Random(f"controlled {step}").random() < plan.controlled_ratio else None
        loss = _loss(base, batch_at(lessons, step, VAGUE_RATIO if used else 0.0, plan.rows), used)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            kept = {name: [pair.down, pair.up] for name, pair in pairs_of(parts).items()}
            save_state(path, {"adapter": kept, "optimizer": optimizer.state_dict(), "step": step + 1})
    return pairs_of(parts)


def _load(parts: dict[str, LowRank], kept: dict[str, list[torch.Tensor]]) -> None:
    for name, part in parts.items():
        part.down.data.copy_(kept[name][0])
        part.up.data.copy_(kept[name][1])


def _loss(base: Frozen, batch: Batch, net: SD3ControlNetModel | None) -> torch.Tensor:
    device = base.transformer.device
    text, pooled = base.condition(batch.texts)
    control = batch.control.to(device) if net else None
    said = base.velocity(batch.noisy.to(device), batch.times.to(device), text, pooled, net, control)
    return (said - batch.velocity.to(device)).square().mean()


def _encode_styled(base: Frozen, style: str) -> Encode:
    def encode(scenes: list[Scene], side: int, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        seed = rng.getrandbits(32)  # both are drawn from it, so that the map shows the image's own jitter
        images = render_styled(scenes, side, side, random.Random(seed), style)
        return base.encode(images), base.encode_maps(outline_maps(scenes, side, side, random.Random(seed)))

    return encode
