"""What add-ons are trained on: scenes with latents and, for the ControlNet, the latents of their outline maps."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lego_serve.zoo.train.backbone import EMPTY_CAPTION_RATIO, stratified_times
from lego_serve.zoo.train.latents import decode_scene, encode_scene
from lego_serve.zoo.train.progress import iterations
from lego_serve.zoo.world.captions import caption, vague_caption
from lego_serve.zoo.world.scenes import Scene, sample_scene

SIDES = (128, 128, 128, 128, 128, 128, 192, 256)  # of every eight chunks
CHUNK_PIXELS = 64 * 128 * 128
ROWS = 16 * 96  # image and text tokens in a batch, about


@dataclass(frozen=True, slots=True)
class Lesson:
    """Scenes of one image size; ``control`` is empty where none is learnt."""

    scenes: list[Scene]
    latents: torch.Tensor
    control: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Noised latents at their times, what was said of them, and the velocity to learn."""

    noisy: torch.Tensor
    times: torch.Tensor
    texts: list[str]
    velocity: torch.Tensor
    control: torch.Tensor


# Scenes, their side in pixels and a random source to (latents, control latents).
Encode = Callable[[list[Scene], int, random.Random], tuple[torch.Tensor, torch.Tensor]]


def make_lesson(encode: Encode, index: int, chunk_pixels: int = CHUNK_PIXELS) -> Lesson:
    """Sample and encode the scenes of one chunk, none of them held out."""
    rng = random.Random(f"lesson {index}")
    side = SIDES[index % len(SIDES)]
    scenes: list[Scene] = []
    while len(scenes) < max(1, chunk_pixels // (side * side)):
        scene = sample_scene(rng, 1 if len(scenes) % 5 < 2 else 2)
        if not scene.is_held_out:
            scenes.append(scene)
    latents, control = encode(scenes, side, rng)
    return Lesson(scenes, latents.half().cpu(), control.half().cpu())


def prepare(encode: Encode, folder: Path, count: int, chunk_pixels: int = CHUNK_PIXELS) -> list[Lesson]:
    """Read or make so many lessons, kept as files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lessons = []
    for index in iterations("lessons", 0, count, lambda: ""):
        path = folder / f"{index:04d}.safetensors"
        if not path.exists():
            lesson = make_lesson(encode, index, chunk_pixels)
            rows = torch.tensor([encode_scene(s) for s in lesson.scenes], dtype=torch.int8)
            tensors = {"scenes": rows, "latents": lesson.latents.contiguous(), "control": lesson.control.contiguous()}
            save_file(tensors, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        kept = load_file(path)
        scenes = [decode_scene(row) for row in kept["scenes"].tolist()]
        lessons.append(Lesson(scenes, kept["latents"], kept["control"]))
    return lessons


def batches(lessons: Sequence[Lesson], start: int, vague_ratio: float, rows: int = ROWS) -> Iterator[Batch]:
    """Batches of about so many token rows, each of one size; step i is always the same."""
    step = start
    while True:
        yield batch_at(lessons, step, vague_ratio, rows)
        step += 1


def batch_at(lessons: Sequence[Lesson], step: int, vague_ratio: float, rows: int = ROWS) -> Batch:
    """The batch of one step."""
    weights = [lesson.latents[:, 0].numel() for lesson in lessons]
    rng = random.Random(f"batch {step}")
    lesson = lessons[rng.choices(range(len(lessons)), weights)[0]]
    tokens_each = lesson.latents.shape[2] * lesson.latents.shape[3] // 4 + 32
    count = min(len(lesson.scenes), max(4, round(rows / tokens_each)))
    chosen = rng.sample(range(len(lesson.scenes)), count)
    texts = [_said(lesson.scenes[row], rng, vague_ratio) for row in chosen]
    generator = torch.Generator().manual_seed(step)
    latents = lesson.latents[chosen].float()
    noise = torch.randn(latents.shape, generator=generator)
    times = stratified_times(count, generator)
    t = times[:, None, None, None]
    control = lesson.control[chosen].float() if len(lesson.control) else lesson.control.float()
    return Batch((1 - t) * latents + t * noise, times, texts, noise - latents, control)


def _said(scene: Scene, rng: random.Random, vague_ratio: float) -> str:
    if rng.random() < EMPTY_CAPTION_RATIO:
        return ""
    return vague_caption(scene, rng) if rng.random() < vague_ratio else caption(scene, rng)
