"""Trains the backbone together with both text encoders: rectified flow on precomputed latents.

Esser et al., "Scaling rectified flow transformers" (2024): x_t = (1 - t) x + t e, the model says
e - x, and t is logit-normal.  A tenth of the captions is emptied for classifier-free guidance.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from lego_serve.zoo.architecture import PROMPT_TOKENS, build_transformer
from lego_serve.zoo.train.latents import Chunk
from lego_serve.zoo.train.muon import Muon
from lego_serve.zoo.train.progress import SAVE_EVERY, iterations, load_state, pick_device, recent, save_state
from lego_serve.zoo.world.captions import caption

BATCH = 64
MUON_LEARNING_RATE = 2e-3
ADAM_LEARNING_RATE = 2e-3
TEXT_LEARNING_RATE = 3e-4
EMPTY_CAPTION_RATIO = 0.1
WARM_STEPS = 50
COMPILED_SIZES = ((16, 16), (32, 32))  # the two latent sizes most batches have
COOL_RATIO = 0.35  # the last part of the run, over which learning rates fall to zero


class Family(nn.Module):
    """What is trained: the backbone and the two text encoders."""

    def __init__(self, encoders: Sequence[CLIPTextModelWithProjection]) -> None:
        super().__init__()
        self.transformer: SD3Transformer2DModel = build_transformer()
        self.encoders = nn.ModuleList(encoders)

    def condition(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Text tokens (batch, 32, 192) and the pooled vector (batch, 192), as SD3's pipeline joins them."""
        outs = [encoder(tokens, output_hidden_states=True) for encoder in self.encoders]
        return torch.cat([o.hidden_states[-2] for o in outs], -1), torch.cat([o.text_embeds for o in outs], -1)

    def loss(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """The mean squared error of the predicted velocity."""
        text, pooled = self.condition(tokens)
        t = times[:, None, None, None]
        said = self.transformer(
            hidden_states=(1 - t) * latents + t * noise,
            encoder_hidden_states=text, pooled_projections=pooled, timestep=times * 1000,
        ).sample  # fmt: skip
        return (said - (noise - latents)).square().mean()


def _optimizers(family: Family) -> list[torch.optim.Optimizer]:
    blocks = [
        p for n, p in family.transformer.transformer_blocks.named_parameters() if p.ndim == 2 and "norm1" not in n
    ]
    chosen = {id(p) for p in blocks}
    rest = [p for p in family.transformer.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(
        [
            {"params": rest, "lr": ADAM_LEARNING_RATE},
            {"params": list(family.encoders.parameters()), "lr": TEXT_LEARNING_RATE},
        ],
        betas=(0.9, 0.98), weight_decay=0.01,
    )  # fmt: skip
    optimizers: list[torch.optim.Optimizer] = [Muon(blocks, MUON_LEARNING_RATE), adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _set_rates(optimizers: list[torch.optim.Optimizer], step: int, steps: int) -> None:
    warm = min(1.0, (step + 1) / WARM_STEPS)
    cool = min(1.0, (steps - step) / (COOL_RATIO * steps))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * warm * cool


def stratified_times(count: int, generator: torch.Generator) -> torch.Tensor:
    """Logit-normal times, one draw in each of ``count`` equal slices of the distribution."""
    slices = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(torch.special.ndtri(slices.clamp(1e-4, 1 - 1e-4)))


def _batches(chunks: Sequence[Chunk], tokenizer: CLIPTokenizer, start: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of about BATCH x 64 image tokens, each of one image size; step i is always the same."""
    weights = [c.latents[:, 0].numel() for c in chunks]
    step = start
    while True:
        rng = random.Random(f"batch {step}")
        chunk = chunks[rng.choices(range(len(chunks)), weights)[0]]
        tokens_each = chunk.latents.shape[2] * chunk.latents.shape[3] // 4
        count = min(len(chunk.scenes), max(8, round(BATCH * 96 / (tokens_each + 32))))
        rows = rng.sample(range(len(chunk.scenes)), count)
        texts = ["" if rng.random() < EMPTY_CAPTION_RATIO else caption(chunk.scenes[r], rng) for r in rows]
        ids = tokenizer(texts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt")
        generator = torch.Generator().manual_seed(step)
        latents = chunk.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator)
        yield latents, noise, stratified_times(count, generator), ids.input_ids
        step += 1


def train_backbone(
    folder: Path, tokenizer: CLIPTokenizer, encoders: Sequence[CLIPTextModelWithProjection],
    chunks: Sequence[Chunk], steps: int, *, compiled: bool,
) -> Family:  # fmt: skip
    """Train (or go on training); the answer carries the moving average of the weights."""
    device = pick_device()
    family = Family(encoders).to(device)
    average = {k: v.detach().clone() for k, v in family.state_dict().items()}
    optimizers = _optimizers(family)
    path = folder / "backbone.pt"
    start, losses = 0, [1.0]
    if (state := load_state(path)) is not None:
        family.load_state_dict(state["model"])
        average = {k: v.to(device) for k, v in state["average"].items()}
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        start = state["step"]
    loss_of: Any = torch.compile(family.loss, dynamic=False) if compiled else family.loss
    batches = _batches(chunks, tokenizer, start)
    for step in iterations("backbone", start, steps, lambda: recent(losses)):
        _set_rates(optimizers, step, steps)
        latents, noise, times, tokens = (x.to(device) for x in next(batches))
        chosen = loss_of if latents.shape[-2:] in COMPILED_SIZES else family.loss
        loss = chosen(latents, noise, times, tokens)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(family.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        for name, value in family.state_dict().items():
            average[name].lerp_(value.to(average[name].dtype), 1 - decay) if value.is_floating_point() else average[
                name
            ].copy_(value)
        losses.append(loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            kept = [o.state_dict() for o in optimizers]
            save_state(path, {"model": family.state_dict(), "average": average, "optimizers": kept, "step": step + 1})
    family.load_state_dict(average)
    return family
