import random

import numpy as np
import pytest
from PIL import Image

from lego_serve.zoo.judge.parse import read_image
from lego_serve.zoo.world import captions
from lego_serve.zoo.world import scenes as world
from loadgen.edits import drawing, scenes, wording
from loadgen.edits.scenes import Scene, Thing, place_centre, template_scene
from loadgen.edits.templates import template_caption, template_file
from loadgen.images import read_pixels

NUMBERS = range(20)


class NoJitter(random.Random):
    """Chance that puts everything exactly where it belongs."""

    def uniform(self, a: float, b: float) -> float:
        """The middle."""
        return (a + b) / 2


def as_the_world_has_it(scene: Scene) -> world.Scene:
    return world.Scene(tuple(world.Thing(t.colour, t.shape, t.place, t.size) for t in scene.things), scene.ground)


def test_values_are_the_worlds() -> None:
    """Colours, shapes, sizes and places are those that the shipped model was trained on."""
    assert scenes.COLOURS == world.COLOURS
    assert (scenes.SHAPES, scenes.SIZES, scenes.PLACES) == (world.SHAPES, world.SIZES, world.PLACES)
    assert drawing.DIAMETER_RATIO == world.DIAMETER_RATIO


def test_words_are_the_models() -> None:
    """Every synonym that it learned, and none that it did not."""
    for ours, theirs in (
        (wording.COLOUR_WORDS, captions.COLOUR_WORDS),
        (wording.SHAPE_WORDS, captions.SHAPE_WORDS),
        (wording.SIZE_WORDS, captions.SIZE_WORDS),
        (wording.PLACE_WORDS, captions.PLACE_WORDS),
    ):
        assert {name: set(words) for name, words in ours.items()} == {name: set(w) for name, w in theirs.items()}
    assert (*captions.GROUND_LAST, *captions.GROUND_FIRST) == wording.FORMS


def test_captions_are_sentences_of_the_models_language() -> None:
    """Of one scene it learned as many captions as there are here, and the same."""
    scene = Scene((Thing("orange", "square", "top", "small"),), "purple")
    ours, theirs = random.Random(0), random.Random(0)
    captioned = {wording.caption(scene, ours) for _ in range(6000)}
    learned = {captions.caption(as_the_world_has_it(scene), theirs, complete=True) for _ in range(12000)}
    assert captioned == learned
    assert len(captioned) == 3 * 2 * 3 * 6 * 2


@pytest.mark.parametrize("number", NUMBERS)
def test_templates_are_the_worlds_images(number: int) -> None:
    """To a pixel's last bit, as the world draws the scene where nothing is out of its place."""
    world_scene = as_the_world_has_it(template_scene(number))
    drawn = (world.render([world_scene], 128, 128, NoJitter())[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(drawn.round().numpy() - read_pixels(template_file(128, 128, number)).astype(float)).max() <= 1


@pytest.mark.parametrize("number", NUMBERS)
def test_captions_are_true(number: int) -> None:
    """The colour in a caption is at the place in the caption, and whoever reads the image finds the scene."""
    scene, image = template_scene(number), read_pixels(template_file(256, 256, number))
    for thing in scene.things:
        x, y = place_centre(thing.place)
        assert tuple(image[int(256 * y), int(256 * x)]) == scenes.COLOURS[thing.colour]
        assert any(word in template_caption(number) for word in wording.PLACE_WORDS[thing.place])
        assert any(
            f" {word} " in template_caption(number) for word in wording.COLOUR_WORDS.get(thing.colour, (thing.colour,))
        )
    assert tuple(image[0, 0]) == scenes.COLOURS[scene.ground]
    reading = read_image(image)
    assert reading.is_clear
    assert set(reading.scene.things) == set(as_the_world_has_it(scene).things)
    assert reading.scene.ground == scene.ground


def test_captions_say_everything_and_stay() -> None:
    """Size, place and ground, in the same words whenever asked for."""
    captioned = [template_caption(number) for number in NUMBERS]
    assert all(captions.says(each) == {"size", "place", "ground"} for each in captioned)
    assert captioned == [template_caption(number) for number in NUMBERS]
    template_caption.cache_clear()
    assert captioned == [template_caption(number) for number in NUMBERS]


def test_templates_differ_and_stay() -> None:
    """Twenty different images of one thing or two, the same at every size."""
    files = [template_file(256, 256, number) for number in NUMBERS]
    assert len(set(files)) == 20
    assert {len(template_scene(number).things) for number in NUMBERS} == {1, 2}
    for number, file in enumerate(files):
        large = read_pixels(template_file(512, 512, number))
        small = np.asarray(Image.fromarray(large).resize((256, 256), Image.Resampling.BOX))
        assert np.abs(small.astype(int) - read_pixels(file)).mean() < 1.0
