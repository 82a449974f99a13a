"""The training data of add-ons: scenes, their latents and the latents of their outline maps."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel

from lego_serve.zoo.train.backbone import EMPTY_CAPTION_RATIO, draw_rows, stratified_times
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.train.latents import decode_scenes, encode_scenes, sample_training_scenes
from lego_serve.zoo.train.progress import cached_tensors, iterations
from lego_serve.zoo.world.captions import caption, vague_caption
from lego_serve.zoo.world.scenes import Scene
from lego_serve.zoo.world.styles import outline_maps

SIDES = (128, 128, 128, 128, 128, 128, 192, 256)  # of every eight chunks
CHUNK_PIXELS = 64 * 128 * 128
ROWS = 16 * 96  # image and text tokens in a batch, about


@dataclass(frozen=True, slots=True)
class AddonChunk:
    """Scenes of one image size with their latents; ``control`` is empty for data without maps."""

    scenes: list[Scene]
    latents: torch.Tensor
    control: torch.Tensor


@dataclass(frozen=True, slots=True)
class NoisedBatch:
    """Noised latents at their times, the captions, the velocity to learn, and the maps' latents."""

    noisy: torch.Tensor
    times: torch.Tensor
    texts: list[str]
    velocity: torch.Tensor
    control: torch.Tensor


# Scenes, their side in pixels and a random source to (latents, control latents).
Encode = Callable[[list[Scene], int, random.Random], tuple[torch.Tensor, torch.Tensor]]
# Scenes, width, height and a random source to images (scenes, 3, height, width) in -1..1.
Render = Callable[[list[Scene], int, int, random.Random], torch.Tensor]


def encode_with_maps(base: FrozenFamily, render: Render) -> Encode:
    """Return a function that renders scenes and encodes the images and their outline maps."""

    def encode(scenes: list[Scene], side: int, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        seed = rng.getrandbits(32)  # of both, so that the map has the jitter of the image
        images = render(scenes, side, side, random.Random(seed))
        return base.encode(images), base.encode_maps(outline_maps(scenes, side, side, random.Random(seed)))

    return encode


def make_chunk(encode: Encode, index: int, chunk_pixels: int = CHUNK_PIXELS) -> AddonChunk:
    """Sample and encode the scenes of one chunk, none of them held out."""
    rng = random.Random(f"lesson {index}")
    side = SIDES[index % len(SIDES)]
    scenes = sample_training_scenes(rng, max(1, chunk_pixels // (side * side)))
    latents, control = encode(scenes, side, rng)
    return AddonChunk(scenes, latents.half().cpu(), control.half().cpu())


def prepare(encode: Encode, folder: Path, count: int, chunk_pixels: int = CHUNK_PIXELS) -> list[AddonChunk]:
    """Read or make so many chunks, kept as files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def make(index: int) -> dict[str, torch.Tensor]:
        chunk = make_chunk(encode, index, chunk_pixels)
        latents, control = chunk.latents.contiguous(), chunk.control.contiguous()
        return {"scenes": encode_scenes(chunk.scenes), "latents": latents, "control": control}

    chunks = []
    for index in iterations("lessons", 0, count, lambda: ""):
        tensors = cached_tensors(folder / f"{index:04d}.safetensors", partial(make, index))
        chunks.append(AddonChunk(decode_scenes(tensors["scenes"]), tensors["latents"], tensors["control"]))
    return chunks


def batch_at(chunks: Sequence[AddonChunk], step: int, vague_ratio: float, rows: int = ROWS) -> NoisedBatch:
    """Return the batch of a step, always the same: about ``rows`` tokens, all of one image size."""
    rng = random.Random(f"batch {step}")
    index, chosen = draw_rows([chunk.latents for chunk in chunks], rng, rows, at_least=4)
    chunk = chunks[index]
    texts = [_caption(chunk.scenes[row], rng, vague_ratio) for row in chosen]
    generator = torch.Generator().manual_seed(step)
    latents = chunk.latents[chosen].float()
    noise = torch.randn(latents.shape, generator=generator)
    times = stratified_times(len(chosen), generator)
    t = times[:, None, None, None]
    control = chunk.control[chosen].float() if len(chunk.control) else chunk.control.float()
    return NoisedBatch((1 - t) * latents + t * noise, times, texts, noise - latents, control)


def velocity_error(base: FrozenFamily, batch: NoisedBatch, net: SD3ControlNetModel | None) -> torch.Tensor:
    """Return the mean squared error of the velocity that a family predicts, with a ControlNet's residuals if given."""
    device = base.transformer.device
    text, pooled = base.condition(batch.texts)
    control = batch.control.to(device) if net is not None else None
    velocity = base.velocity(batch.noisy.to(device), batch.times.to(device), text, pooled, net, control)
    return (velocity - batch.velocity.to(device)).square().mean()


def _caption(scene: Scene, rng: random.Random, vague_ratio: float) -> str:
    if rng.random() < EMPTY_CAPTION_RATIO:
        return ""
    return vague_caption(scene, rng) if rng.random() < vague_ratio else caption(scene, rng)
