"""Latents precomputed once: scenes rendered and encoded in chunks, one image size a chunk."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from lego_serve.zoo.train.progress import iterations
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
    """Width, height and scene count of a chunk: every fifth is of a size other than the native one, then large ones."""
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
    """A scene as nine small integers; -1 fills the row of one with a single thing."""
    row = [COLOUR_NAMES.index(scene.ground)]
    for t in scene.things:
        row += [COLOUR_NAMES.index(t.colour), SHAPES.index(t.shape), PLACES.index(t.place), SIZES.index(t.size)]
    return row + [-1] * (9 - len(row))


def decode_scene(row: list[int]) -> Scene:
    """The scene that `encode_scene` wrote."""
    things = [row[1:5], row[5:9]]
    return Scene(
        tuple(Thing(COLOUR_NAMES[c], SHAPES[s], PLACES[p], SIZES[z]) for c, s, p, z in things if c >= 0),
        COLOUR_NAMES[row[0]],
    )


@torch.no_grad()
def make_chunk(vae: AutoencoderKL, index: int) -> Chunk:
    """Sample, render and encode one chunk; none of its scenes is held out."""
    rng = random.Random(f"chunk {index}")
    width, height, count = chunk_size(index)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, 1 if len(scenes) % 5 < 2 else 2)
        if not scene.is_held_out:
            scenes.append(scene)
    latents = []
    for at in range(0, count, 8):
        images = render(scenes[at : at + 8], width, height, rng).to(vae.device)
        mean = vae.encode(images).latent_dist.mode()
        latents.append(((mean - vae.config.shift_factor) * vae.config.scaling_factor).half().cpu())
    return Chunk(scenes, torch.cat(latents).contiguous())


def precompute(vae: AutoencoderKL, folder: Path, count: int) -> list[Chunk]:
    """Read or make so many chunks, kept as files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for index in iterations("latents", 0, count, lambda: ""):
        path = folder / f"{index:04d}.safetensors"
        if not path.exists():
            chunk = make_chunk(vae, index)
            rows = torch.tensor([encode_scene(s) for s in chunk.scenes], dtype=torch.int8)
            save_file({"scenes": rows, "latents": chunk.latents}, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        stored = load_file(path)
        chunks.append(Chunk([decode_scene(r) for r in stored["scenes"].tolist()], stored["latents"]))
    return chunks
