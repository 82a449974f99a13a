"""Trains the backbone together with both text encoders: rectified flow on precomputed latents.

Esser et al., "Scaling rectified flow transformers" (2024): x_t = (1 - t) x + t e, the model predicts
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
from lego_serve.zoo.train.optimizers import muon_and_adam, others, scale_rates, update_average
from lego_serve.zoo.train.progress import TrainingState, iterations, pick_device, recent
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
    """The trained modules: the backbone and the two text encoders."""

    def __init__(self, encoders: Sequence[CLIPTextModelWithProjection]) -> None:
        super().__init__()
        self.transformer: SD3Transformer2DModel = build_transformer()
        self.encoders = nn.ModuleList(encoders)

    def condition(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return text tokens (batch, 32, 192) and the pooled vector (batch, 192), as SD3's pipeline joins them."""
        outs = [encoder(tokens, output_hidden_states=True) for encoder in self.encoders]
        return torch.cat([o.hidden_states[-2] for o in outs], -1), torch.cat([o.text_embeds for o in outs], -1)

    def loss(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean squared error of the predicted velocity."""
        text, pooled = self.condition(tokens)
        t = times[:, None, None, None]
        velocity = self.transformer(
            hidden_states=(1 - t) * latents + t * noise,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=times * 1000,
        ).sample
        return (velocity - (noise - latents)).square().mean()


def _optimizers(family: Family) -> list[torch.optim.Optimizer]:
    transformer = family.transformer
    matrices = [p for n, p in transformer.transformer_blocks.named_parameters() if p.ndim == 2 and "norm1" not in n]
    adam = torch.optim.AdamW(
        [
            {"params": others(transformer, matrices), "lr": ADAM_LEARNING_RATE},
            {"params": list(family.encoders.parameters()), "lr": TEXT_LEARNING_RATE},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    return muon_and_adam(matrices, MUON_LEARNING_RATE, adam)


def _rate_factor(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_STEPS)
    cool = min(1.0, (steps - step) / (COOL_RATIO * steps))
    return warm * cool


def stratified_times(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return logit-normal times, one draw in each of ``count`` equal slices of the distribution."""
    slices = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(torch.special.ndtri(slices.clamp(1e-4, 1 - 1e-4)))


def draw_rows(
    latents: Sequence[torch.Tensor], rng: random.Random, token_rows: int, at_least: int
) -> tuple[int, list[int]]:
    """Draw a chunk, in proportion to its latent pixels, and rows of it for about ``token_rows`` tokens.

    ``latents`` are the chunks' (scenes, channels, height, width); each row has 32 text tokens besides the image's.
    """
    weights = [chunk[:, 0].numel() for chunk in latents]
    index = rng.choices(range(len(latents)), weights)[0]
    scenes, _, height, width = latents[index].shape
    count = min(scenes, max(at_least, round(token_rows / (height * width // 4 + PROMPT_TOKENS))))
    return index, rng.sample(range(scenes), count)


def _batches(chunks: Sequence[Chunk], tokenizer: CLIPTokenizer, start: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield batches of about BATCH x 64 image tokens, each of one image size; a step's batch is always the same."""
    step = start
    while True:
        rng = random.Random(f"batch {step}")
        index, rows = draw_rows([chunk.latents for chunk in chunks], rng, BATCH * 96, at_least=8)
        chunk = chunks[index]
        texts = ["" if rng.random() < EMPTY_CAPTION_RATIO else caption(chunk.scenes[row], rng) for row in rows]
        ids = tokenizer(texts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt")
        generator = torch.Generator().manual_seed(step)
        latents = chunk.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator)
        yield latents, noise, stratified_times(len(rows), generator), ids.input_ids
        step += 1


def train_backbone(
    folder: Path,
    tokenizer: CLIPTokenizer,
    encoders: Sequence[CLIPTextModelWithProjection],
    chunks: Sequence[Chunk],
    steps: int,
    *,
    compiled: bool,
) -> Family:
    """Train (or resume training) and return the moving average of the weights."""
    device = pick_device()
    family = Family(encoders).to(device)
    average = {name: value.detach().clone() for name, value in family.state_dict().items()}
    optimizers = _optimizers(family)
    state = TrainingState(folder / "backbone.pt", family, optimizers, average)
    start, losses = state.resume(), [1.0]
    compiled_loss: Any = torch.compile(family.loss, dynamic=False) if compiled else family.loss
    batches = _batches(chunks, tokenizer, start)
    for step in iterations("backbone", start, steps, lambda: recent(losses)):
        scale_rates(optimizers, _rate_factor(step, steps))
        latents, noise, times, tokens = (tensor.to(device) for tensor in next(batches))
        loss_of = compiled_loss if latents.shape[-2:] in COMPILED_SIZES else family.loss
        loss = loss_of(latents, noise, times, tokens)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(family.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        update_average(average, family, min(0.998, (step + 1) / (step + 20)))
        losses.append(loss.item())
        state.save_if_due(step, steps)
    family.load_state_dict(average)
    return family
