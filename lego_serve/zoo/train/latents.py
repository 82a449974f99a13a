"""Precomputes latents: scenes are rendered and encoded once, in chunks of one image size each."""

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from lego_serve.zoo.train.progress import cached_tensors, iterations
from lego_serve.zoo.world.scenes import COLOUR_NAMES, PLACES, SHAPES, SIZES, Scene, Thing, render, sample_scene

CHUNK_SCENES = 256
OTHER_SIDES = range(96, 257, 16)
FIRST_LARGE = 100  # chunks from here on are of large images, which take longest to learn


@dataclass(frozen=True, slots=True)
class Chunk:
    """Scenes of one image size with their scaled latents (scenes, channels, height, width), fp16."""

    scenes: list[Scene]
    latents: torch.Tensor


def chunk_size(index: int) -> tuple[int, int, int]:
    """Return a chunk's width, height and scene count: every fifth is of another size than the native one, later all."""
    rng = random.Random(f"size {index}")
    if index >= FIRST_LARGE:
        width, height = (256, 256) if index % 3 else (rng.choice(OTHER_SIDES[4:]), rng.choice(OTHER_SIDES[4:]))
    elif index % 5 != 4:
        return 128, 128, CHUNK_SCENES
    else:
        width, height = rng.choice(OTHER_SIDES), rng.choice(OTHER_SIDES)
        if index % 10 == 9:
            height = width = rng.choice((256, 256, width))
    return width, height, max(32, CHUNK_SCENES * 128 * 128 // (width * height) // 16 * 16)


def encode_scene(scene: Scene) -> list[int]:
    """Return a scene as nine small integers; -1 fills the row of a scene with a single thing."""
    row = [COLOUR_NAMES.index(scene.ground)]
    for t in scene.things:
        row += [COLOUR_NAMES.index(t.colour), SHAPES.index(t.shape), PLACES.index(t.place), SIZES.index(t.size)]
    return row + [-1] * (9 - len(row))


def decode_scene(row: list[int]) -> Scene:
    """Return the scene that `encode_scene` wrote."""
    things = [row[1:5], row[5:9]]
    return Scene(
        tuple(Thing(COLOUR_NAMES[c], SHAPES[s], PLACES[p], SIZES[z]) for c, s, p, z in things if c >= 0),
        COLOUR_NAMES[row[0]],
    )


def encode_scenes(scenes: list[Scene]) -> torch.Tensor:
    """Return scenes as int8 rows (scenes, 9)."""
    return torch.tensor([encode_scene(scene) for scene in scenes], dtype=torch.int8)


def decode_scenes(rows: torch.Tensor) -> list[Scene]:
    """Return the scenes that `encode_scenes` wrote."""
    return [decode_scene(row) for row in rows.tolist()]


def sample_training_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Draw so many scenes, two fifths of them with a single thing; none is held out."""
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, 1 if len(scenes) % 5 < 2 else 2)
        if not scene.is_held_out:
            scenes.append(scene)
    return scenes


@torch.no_grad()
def make_chunk(vae: AutoencoderKL, index: int) -> Chunk:
    """Sample, render and encode one chunk; none of its scenes is held out."""
    rng = random.Random(f"chunk {index}")
    width, height, count = chunk_size(index)
    scenes = sample_training_scenes(rng, count)
    latents = []
    for first in range(0, count, 8):
        images = render(scenes[first : first + 8], width, height, rng).to(vae.device)
        mean = vae.encode(images).latent_dist.mode()
        latents.append(((mean - vae.config.shift_factor) * vae.config.scaling_factor).half().cpu())
    return Chunk(scenes, torch.cat(latents).contiguous())


def precompute(vae: AutoencoderKL, folder: Path, count: int) -> list[Chunk]:
    """Read or make so many chunks, kept as files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def make(index: int) -> dict[str, torch.Tensor]:
        chunk = make_chunk(vae, index)
        return {"scenes": encode_scenes(chunk.scenes), "latents": chunk.latents}

    chunks = []
    for index in iterations("latents", 0, count, lambda: ""):
        tensors = cached_tensors(folder / f"{index:04d}.safetensors", partial(make, index))
        chunks.append(Chunk(decode_scenes(tensors["scenes"]), tensors["latents"]))
    return chunks
