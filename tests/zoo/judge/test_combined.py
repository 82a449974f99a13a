"""The judge of adapters beside the ControlNet: on images whose content is known."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from lego_serve.zoo.commands.combined import settings_of
from lego_serve.zoo.judge.combined import (
    CombinedSetting,
    CombinedVerdict,
    GenerateCombined,
    combined_table,
    judge_combined,
)
from lego_serve.zoo.judge.controlnet import MapSet, map_sets
from lego_serve.zoo.judge.style import PLAIN
from lego_serve.zoo.world.scenes import Scene
from lego_serve.zoo.world.styles import STYLES, render_styled

COUNT = 40


def drawn(some: MapSet, style: str, scenes: list[Scene] | None = None) -> np.ndarray:
    """The scenes of maps, or others at their places, as 8-bit images in a style."""
    rng = random.Random()
    rng.setstate(some.jitter)
    side = some.maps.shape[-1]
    images = render_styled(scenes or [p.scene for p in some.prompts], side, side, rng, style)
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@cache
def held_out(side: int, count: int, kind: str, style: str) -> np.ndarray:
    """The scenes of the judge's own maps, in a style."""
    [some] = [each for each in map_sets(side, count) if each.kind == kind]
    return drawn(some, style)


def renderer(side: int, count: int, style: str | None = None, shift: int = 0) -> GenerateCombined:
    """Draws what is asked for, in another style if one is given, each map getting the image of one ``shift`` on."""

    def generate(
        setting: CombinedSetting, texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]
    ) -> np.ndarray:
        kind = "two_objects" if " and " in texts[0] else "one_object"
        images = np.roll(held_out(side, count, kind, style or setting.style), -shift, axis=0)
        return images[list(seeds)]

    return generate


@pytest.mark.parametrize("side", [96, 128, 256])
@pytest.mark.parametrize("style", [PLAIN, *STYLES])
def test_a_rendered_scene_follows_its_map_in_its_style_and_colours(style: str, side: int) -> None:
    """All but one in twenty: things that stripes hide nearly whole are hard to find."""
    found = list(judge_combined(renderer(side, COUNT), [CombinedSetting(style, 1, 1)], side, COUNT))
    assert len(found) == COUNT
    right = [v for v in found if v.is_followed and v.is_styled and v.is_coloured]
    assert len(right) >= 0.95 * COUNT, [(v.text, v.overlap, v.seen, v.coloured_ratio) for v in found if v not in right]


@pytest.mark.parametrize("style", [PLAIN, *STYLES])
def test_the_scene_of_another_map_does_not_follow(style: str) -> None:
    """Its things stand elsewhere; hardly one in twenty overlaps by chance."""
    found = judge_combined(renderer(128, COUNT, shift=1), [CombinedSetting(style, 1, 1)], 128, COUNT)
    assert sum(v.is_followed for v in found) <= 0.1 * COUNT


@pytest.mark.parametrize("style", STYLES)
def test_a_plain_image_is_in_no_style(style: str) -> None:
    """It may follow its map all the same."""
    found = judge_combined(renderer(128, COUNT, style=PLAIN), [CombinedSetting(style, 1, 1)], 128, COUNT)
    assert not any(v.is_styled for v in found)


def test_swapped_colours_are_seen() -> None:
    """Things that stand right and have each other's colours follow and are not coloured."""
    one, two = map_sets(128, COUNT)
    scenes = [prompt.scene for prompt in two.prompts]
    swapped = [
        Scene(tuple(replace(t, colour=o.colour) for t, o in zip(s.things, s.things[::-1], strict=True)), s.ground)
        for s in scenes
    ]

    def generate(
        setting: CombinedSetting, texts: Sequence[str], maps: torch.Tensor, seeds: Sequence[int]
    ) -> np.ndarray:
        return (drawn(two, setting.style, swapped) if " and " in texts[0] else drawn(one, setting.style))[list(seeds)]

    found = list(judge_combined(generate, [CombinedSetting("frame", 1, 1)], 128, COUNT))[COUNT // 2 :]
    alike = [s.things[0].colour == s.things[1].colour for s in scenes]
    assert all(v.is_followed for v in found)
    assert [v.is_coloured for v in found] == alike


def test_the_table_has_a_row_for_each_setting() -> None:
    """Without an adapter the scale does not matter, so there is one row of it."""
    settings = settings_of([PLAIN, "frame"], [1.0, 0.5], [1.0])
    assert settings == [
        CombinedSetting(PLAIN, 1.0, 1.0),
        CombinedSetting("frame", 1.0, 1.0),
        CombinedSetting("frame", 0.5, 1.0),
    ]
    verdicts: list[CombinedVerdict] = list(judge_combined(renderer(96, 4, style=PLAIN), settings, 96, 4))
    rows = combined_table(verdicts)
    assert [(row["style"], row["scale"], row["styled"], row["of"]) for row in rows] == [
        (PLAIN, 1.0, 4, 4),
        ("frame", 1.0, 0, 4),
        ("frame", 0.5, 0, 4),
    ]
