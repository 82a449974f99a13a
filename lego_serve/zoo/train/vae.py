"""Trains the autoencoder on strewn shapes, mostly small images: convolutions need no whole scene."""

import json
import math
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lego_serve.zoo.architecture import build_vae
from lego_serve.zoo.train.muon import Muon
from lego_serve.zoo.train.progress import SAVE_EVERY, iterations, load_state, pick_device, save_state
from lego_serve.zoo.world.scenes import COLOURS, SHAPES, render, sample_scene, shape_distances

KL_WEIGHT = 1e-3
DECODER_NOISE = 0.1
PEAK_LEARNING_RATE = 2e-3


def confetti(rng: random.Random, pixels: int, count: int) -> torch.Tensor:
    """Images (count, 3, pixels, pixels) in -1..1 strewn with shapes of every size the world has.

    An autoencoder is local: what counts is many edges and colours an image, not whole scenes.
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
    chosen = {id(p) for p in kernels}
    rest = [p for p in vae.parameters() if id(p) not in chosen]
    return [
        Muon(kernels, PEAK_LEARNING_RATE),
        torch.optim.AdamW(rest, PEAK_LEARNING_RATE, (0.9, 0.99), weight_decay=0.0),
    ]


def train_vae(folder: Path, steps: int, seed: int = 0) -> AutoencoderKL:
    """Train (or go on training) the autoencoder and measure its latents' shift and scale."""
    device = pick_device()
    vae = build_vae().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = _optimizers(vae)
    start, loss_value = 0, math.nan
    if (state := load_state(folder / "vae.pt")) is not None:
        vae.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        start = state["step"]
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
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            kept = [o.state_dict() for o in optimizers]
            save_state(folder / "vae.pt", {"model": vae.state_dict(), "optimizers": kept, "step": step + 1})
    _measure_latents(vae, folder)
    return vae


def train_decoder(folder: Path, vae: AutoencoderKL, steps: int, seed: int = 0) -> None:
    """Go on training the decoder alone, so that latents made meanwhile stay valid.

    It sees the encoder's means with a little noise, as it will see a backbone's imperfect latents.
    """
    vae.encoder.requires_grad_(False)
    optimizers = _optimizers(vae)
    path = folder / "decoder.pt"
    start, loss_value = 0, math.nan
    if (state := load_state(path)) is not None:
        vae.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        start = state["step"]
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
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            kept = [o.state_dict() for o in optimizers]
            save_state(path, {"model": vae.state_dict(), "optimizers": kept, "step": step + 1})
    vae.encoder.requires_grad_(True)


def _decoder_images(rng: random.Random, step: int) -> torch.Tensor:
    if step % 3 == 2:
        side, count = (256, 2) if step % 12 == 11 else (96, 8)
        return render([sample_scene(rng, 2) for _ in range(count)], side, side, rng)
    return confetti(rng, 128, 3) if step % 6 == 0 else confetti(rng, 64, 14)


@torch.no_grad()
def _measure_latents(vae: AutoencoderKL, folder: Path) -> None:
    """Set scaling and shift so that scaled latents have mean 0 and deviation 1; measured once, then kept."""
    kept = folder / "latents.json"
    if kept.exists():
        vae.register_to_config(**json.loads(kept.read_text()))
        return
    rng = random.Random(1)
    images = render([sample_scene(rng, 1 + i % 2) for i in range(64)], 128, 128, rng).to(vae.device)
    latents = torch.cat([vae.encode(p[None]).latent_dist.mode() for p in images])
    measured = {"shift_factor": round(latents.mean().item(), 4), "scaling_factor": round(1 / latents.std().item(), 4)}
    kept.write_text(json.dumps(measured))
    vae.register_to_config(**measured)
