"""Trains the autoencoder on small images of scattered shapes: convolutions need no whole scene."""

import json
import math
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lego_serve.zoo.architecture import build_vae
from lego_serve.zoo.train.muon import Muon
from lego_serve.zoo.train.optimizers import others
from lego_serve.zoo.train.progress import TrainingState, iterations, pick_device
from lego_serve.zoo.world.scenes import COLOURS, SHAPES, render, sample_scene, shape_distances

KL_WEIGHT = 1e-3
DECODER_NOISE = 0.1
PEAK_LEARNING_RATE = 2e-3


def confetti(rng: random.Random, pixels: int, count: int) -> torch.Tensor:
    """Return images (count, 3, pixels, pixels) in -1..1, scattered with shapes of every size of the world.

    An autoencoder is local: it learns from many edges and colours in an image, not from whole scenes.
    """
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 127.5 - 1
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    image = palette[torch.randint(len(palette), (count,), generator=generator)][:, :, None, None]
    grid = torch.arange(pixels) + 0.5
    for _ in range(max(2, pixels * pixels // 1600)):
        centre = torch.rand(2, count, 1, 1, generator=generator) * pixels
        diameter = 16 * 4.5 ** torch.rand(count, 1, 1, generator=generator)
        distances = shape_distances(grid[None, None, :] - centre[0], grid[None, :, None] - centre[1], diameter)
        kind = torch.randint(len(SHAPES), (count,), generator=generator)
        cover = (0.5 - distances[torch.arange(count), kind]).clamp(0, 1)[:, None]
        colour = palette[torch.randint(len(palette), (count,), generator=generator)][:, :, None, None]
        image = image * (1 - cover) + colour * cover
    return image


def _optimizers(vae: AutoencoderKL) -> list[torch.optim.Optimizer]:
    kernels = [p for p in vae.parameters() if p.ndim == 4 and min(p.shape[:2]) >= 8]
    return [
        Muon(kernels, PEAK_LEARNING_RATE),
        torch.optim.AdamW(others(vae, kernels), PEAK_LEARNING_RATE, (0.9, 0.99), weight_decay=0.0),
    ]


def train_vae(folder: Path, steps: int, seed: int = 0) -> AutoencoderKL:
    """Train (or resume training) the autoencoder and measure its latents' shift and scale."""
    device = pick_device()
    vae = build_vae().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = _optimizers(vae)
    state = TrainingState(folder / "vae.pt", vae, optimizers)
    start, loss_value = state.resume(), math.nan
    for step in iterations("autoencoder", start, steps, lambda: f"loss {loss_value:.4f}"):
        rng = random.Random(f"{seed} vae {step}")
        warm = min(1.0, (step + 1) / 50)
        decay = 0.5 + 0.5 * math.cos(math.pi * step / steps)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = PEAK_LEARNING_RATE * warm * max(decay, 0.01)
        pixels, count = (128, 4) if step % 8 == 0 else (64, 16)
        images = confetti(rng, pixels, count).to(device)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = decoded - images
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = error.abs().mean() + error.square().mean() + KL_WEIGHT * kl
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        loss_value = loss.item()
        state.save_if_due(step, steps)
    _measure_latents(vae, folder)
    return vae


def train_decoder(folder: Path, vae: AutoencoderKL, steps: int, seed: int = 0) -> None:
    """Train the decoder further with a frozen encoder, so that latents made meanwhile stay valid.

    It decodes the encoder's means with a little noise, like the imperfect latents of a backbone.
    """
    vae.encoder.requires_grad_(False)
    optimizers = _optimizers(vae)
    state = TrainingState(folder / "decoder.pt", vae, optimizers)
    start, loss_value = state.resume(), math.nan
    for step in iterations("decoder", start, steps, lambda: f"loss {loss_value:.4f}"):
        rng = random.Random(f"{seed} decoder {step}")
        rate = PEAK_LEARNING_RATE * min(1.0, (step + 1) / 20) * (1 - step / steps)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = rate
        images = _decoder_images(rng, step).to(vae.device)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mode()
            latents = latents + DECODER_NOISE * torch.randn_like(latents)
        error = vae.decode(latents).sample - images
        loss = error.abs().mean() + 2 * error.square().mean()
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        loss_value = loss.item()
        state.save_if_due(step, steps)
    vae.encoder.requires_grad_(True)


def _decoder_images(rng: random.Random, step: int) -> torch.Tensor:
    if step % 3 == 2:
        side, count = (256, 2) if step % 12 == 11 else (96, 8)
        return render([sample_scene(rng, 2) for _ in range(count)], side, side, rng)
    return confetti(rng, 128, 3) if step % 6 == 0 else confetti(rng, 64, 14)


@torch.no_grad()
def _measure_latents(vae: AutoencoderKL, folder: Path) -> None:
    """Set scaling and shift so that scaled latents have mean 0 and deviation 1; measured only once."""
    file = folder / "latents.json"
    if file.exists():
        vae.register_to_config(**json.loads(file.read_text()))
        return
    rng = random.Random(1)
    images = render([sample_scene(rng, 1 + i % 2) for i in range(64)], 128, 128, rng).to(vae.device)
    latents = torch.cat([vae.encode(p[None]).latent_dist.mode() for p in images])
    measured = {"shift_factor": round(latents.mean().item(), 4), "scaling_factor": round(1 / latents.std().item(), 4)}
    file.write_text(json.dumps(measured))
    vae.register_to_config(**measured)
