"""The judge is itself judged: on images whose content is known."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lego_serve.models.loading import load_vae
from lego_serve.models.registry import ModelSpec
from lego_serve.models.vae import KlVae
from lego_serve.zoo.judge.parse import read_image
from lego_serve.zoo.judge.prompts import Prompt, faults, held_out_prompts
from lego_serve.zoo.world.captions import caption
from lego_serve.zoo.world.scenes import render, sample_scene

SIZES = [(96, 96), (128, 128), (256, 256), (192, 112)]


def images(prompts: list[Prompt], width: int, height: int) -> np.ndarray:
    """The scenes drawn, as 8-bit images."""
    drawn = render([p.scene for p in prompts], width, height, random.Random(3))
    return ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def vae() -> KlVae:
    """The shipped autoencoder."""
    return load_vae(ModelSpec("lego-tiny", "builtin:lego-tiny", dtype="float32", max_sequence_length=0))


@given(st.integers(0, 2**32), st.sampled_from(SIZES))
@settings(max_examples=60, deadline=None)
def test_a_rendered_scene_reads_back_as_itself(seed: int, size: tuple[int, int]) -> None:
    """Whatever the scene and size, the parser finds it again."""
    rng = random.Random(seed)
    scene = sample_scene(rng, 1 + seed % 2)
    prompt = Prompt(caption(scene, rng, complete=True), scene)
    assert read_image(images([prompt], *size)[0]).scene.key == scene.key


@pytest.mark.parametrize(
    ("size", "count"),
    [(SIZES[0], 100), (SIZES[3], 100), *(pytest.param(size, 200, marks=pytest.mark.long) for size in SIZES)],
)
def test_round_trips_through_the_autoencoder_are_judged_right(vae: KlVae, size: tuple[int, int], count: int) -> None:
    """At least 99 % of drawn scenes, encoded and decoded, are counted right."""
    prompts = held_out_prompts(1, count // 2) + held_out_prompts(2, count // 2)
    drawn = torch.from_numpy(images(prompts, *size))
    seen = vae.decode(torch.stack([encoded.mean for encoded in vae.encode(drawn)])).numpy()
    wrong = [(p.text, faults(p, s)) for p, s in zip(prompts, seen, strict=True) if faults(p, s)]
    assert len(wrong) <= 0.01 * len(prompts), wrong


@pytest.mark.parametrize("things", [1, 2])
def test_mismatched_prompts_are_judged_wrong(things: int) -> None:
    """At most 5 % of images pass for another prompt."""
    prompts = held_out_prompts(things, 200)
    seen = images(prompts, 128, 128)
    passed = sum(not faults(p, s) for p, s in zip(prompts[1:] + prompts[:1], seen, strict=True))
    assert passed <= 0.05 * len(prompts)


def test_noise_and_empty_images_are_judged_wrong() -> None:
    """A plain ground and random pixels are no scene."""
    prompt = held_out_prompts(1, 1)[0]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert faults(prompt, np.full((128, 128, 3), 255, np.uint8))
    assert faults(prompt, noise)
