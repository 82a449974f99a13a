"""The world's other looks, and the judge that tells them apart."""

import random

import numpy as np
import pytest
import torch

from lego_serve.zoo.judge.style import PLAIN, StyleVerdict, judge_styles, read_style, style_table
from lego_serve.zoo.world.captions import says, vague_caption
from lego_serve.zoo.world.scenes import Scene, Thing, render, sample_scene
from lego_serve.zoo.world.styles import STYLES, outline_maps, render_styled


def drawn(style: str, width: int, height: int) -> np.ndarray:
    """Scenes of one and two things in a style, as 8-bit images."""
    rng = random.Random(f"{style} {width} {height}")
    scenes = [sample_scene(rng, 1 + index % 2) for index in range(100 if width * height < 200 * 200 else 30)]
    image = render_styled(scenes, width, height, rng, style)
    return ((image + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [(96, 96), (128, 128), (256, 256), (192, 112)])
@pytest.mark.parametrize("style", [PLAIN, *STYLES])
def test_rendered_styles_are_told_apart(style: str, size: tuple[int, int]) -> None:
    """At least 99 % of images are taken for what they are drawn as, those in no style too."""
    seen = [read_style(image) for image in drawn(style, *size)]
    assert seen.count(style) >= 0.99 * len(seen), seen


def test_no_style_is_the_plain_image() -> None:
    """A style of another name draws what `render` draws, jitter included."""
    scenes = [sample_scene(random.Random(seed), 2) for seed in range(4)]
    plain = render(scenes, 128, 128, random.Random(7))
    assert torch.equal(plain, render_styled(scenes, 128, 128, random.Random(7), PLAIN))


def test_an_outline_map_encloses_the_shapes_of_the_image_with_the_same_jitter() -> None:
    """Lines are white, lie on the edge and leave the inside black."""
    scene = Scene((Thing("red", "square", "centre", "large"),), "white")
    shown = outline_maps([scene], 128, 128, random.Random(7))[0, 0]
    image = render([scene], 128, 128, random.Random(7))[0]
    rows = (image[1] < 0).any(1).nonzero().flatten()
    assert shown.max() == 1
    assert shown[64, 64] == -1
    assert abs(int((shown > 0).any(1).nonzero().min()) - int(rows.min())) <= 2
    assert abs(int((shown > 0).any(1).nonzero().max()) - int(rows.max())) <= 2


def test_vague_captions_leave_places_and_sizes_to_the_map() -> None:
    """They name colours, shapes and the ground and nothing more."""
    rng = random.Random(2)
    assert all(says(vague_caption(sample_scene(rng, 1 + i % 2), rng)) == {"ground"} for i in range(200))


def test_every_style_is_judged_on_the_same_prompts() -> None:
    """The table counts what each style was taken for."""
    asked: dict[str, list[str]] = {}

    def generate(style: str, texts: list[str], seeds: range, side: int) -> np.ndarray:
        asked.setdefault(style, []).extend(texts)
        return drawn(style, side, side)[: len(texts)]

    verdicts: list[StyleVerdict] = list(judge_styles(generate, [128], 6))  # type: ignore[arg-type]
    assert len({tuple(texts) for texts in asked.values()}) == 1
    assert style_table(verdicts)["128"]["outline"]["outline"] == 6
