"""The world, its captions and what training takes from them."""

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from lego_serve.zoo.architecture import PROMPT_TOKENS, build_tokenizer
from lego_serve.zoo.train.latents import chunk_size
from lego_serve.zoo.train.muon import orthogonalise
from lego_serve.zoo.world.captions import caption, says
from lego_serve.zoo.world.scenes import PLACES, Scene, sample_scene, sample_scenes


@given(st.integers(0, 2**32))
def test_a_scene_never_hides_a_thing(seed: int) -> None:
    """Things differ from the ground in colour and from each other in place."""
    scene = sample_scene(random.Random(seed), 2)
    assert scene.ground not in {t.colour for t in scene.things}
    assert len({t.place for t in scene.things}) == 2


@given(st.integers(0, 2**32))
def test_the_order_of_things_does_not_change_a_scenes_key(seed: int) -> None:
    """Held out or not is a matter of what is seen."""
    scene = sample_scene(random.Random(seed), 2)
    assert Scene(scene.things[::-1], scene.ground).is_held_out == scene.is_held_out


def test_about_a_tenth_of_scenes_is_held_out_and_never_sampled_for_training() -> None:
    """The hash splits the world, and sampling respects it."""
    rng = random.Random(0)
    share = sum(sample_scene(rng, 1).is_held_out for _ in range(4000)) / 4000
    assert 0.07 < share < 0.13
    assert not any(s.is_held_out for s in sample_scenes(rng, 300, 2, held_out=False))


def test_every_complete_caption_fits_the_text_encoders() -> None:
    """No caption is cut off, and each states size and ground."""
    tokenizer = build_tokenizer(captions=2000)
    rng = random.Random(1)
    for index in range(2000):
        text = caption(sample_scene(rng, 1 + index % 2), rng, complete=True)
        assert len(tokenizer(text).input_ids) <= PROMPT_TOKENS, text
        assert {"size", "ground"} <= says(text)


def test_says_tells_places_from_relations() -> None:
    """ "left of" is no place; "on the left" is."""
    assert "place" not in says("a small red dot left of a small blue box, white background")
    assert "place" in says("a small red dot on the left")
    assert len(PLACES) == 9


def test_chunks_are_mostly_native_and_never_out_of_range() -> None:
    """One chunk in five has another size, between 96 and 256 in steps of 16."""
    sizes = [chunk_size(i)[:2] for i in range(100)]
    assert sum(s == (128, 128) for s in sizes) >= 80
    assert all(96 <= side <= 256 and side % 16 == 0 for size in sizes for side in size)


def test_orthogonalise_matrices_have_singular_values_near_one() -> None:
    """The Newton-Schulz iteration flattens the spectrum, whichever side is longer."""
    torch.manual_seed(0)
    for shape in ((3, 16, 48), (2, 48, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.5
