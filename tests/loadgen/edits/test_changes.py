import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.edits.changes import FreshPrompts, scene_changes
from loadgen.edits.drawing import share_covered
from loadgen.edits.masks import draw_mask
from loadgen.edits.scenes import PLACES, Scene, Thing, place_centre, template_scene

SIDE = 128
TWO = Scene((Thing("red", "circle", "left", "small"), Thing("green", "cross", "right", "large")), "blue")


def mask_over(place: str, ratio: float, seed: int = 0) -> np.ndarray:
    return draw_mask(ratio, SIDE, SIDE, np.random.default_rng(seed), place_centre(place))


def whole(image_ratio: float) -> np.ndarray:
    """The left part of an image."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:, : round(image_ratio * SIDE)] = True
    return mask


@given(st.integers(0, 19), st.floats(0.0, 1.0), st.integers(0, 2**32 - 1))
def test_another_thing_stands_in_its_place(number: int, ratio: float, seed: int) -> None:
    """The ground stays, and in one thing's place is one of another colour and shape that is seen before the ground."""
    scene, rng = template_scene(number), random.Random(seed)
    own = rng.choice(scene.things)
    after = scene_changes(scene, own.place, mask_over(own.place, ratio, seed), rng)()
    assert after.ground == scene.ground
    [new] = [thing for thing in after.things if thing.place == own.place]
    assert new.colour not in (own.colour, scene.ground)
    assert new.shape != own.shape
    assert {thing for thing in after.things if thing is not new} <= set(scene.things) - {own}


def test_what_is_left_is_named() -> None:
    """The other thing stays in words as long as the mask leaves most of it."""
    other = TWO.things[1]
    for part, is_named in ((0.4, True), (1.0, False)):
        after = scene_changes(TWO, "left", whole(part), random.Random(0))()
        assert (other in after.things) is is_named
        assert share_covered(other, whole(part)) == (1.0 if part == 1.0 else 0.0)


def test_it_fits_the_mask() -> None:
    """A small mask is asked for small things, one that holds both for both."""
    sizes = {
        ratio: {
            thing.size
            for seed in range(40)
            for thing in scene_changes(TWO, "left", mask_over("left", ratio), random.Random(seed))().things
            if thing.place == "left"
        }
        for ratio in (0.03, 0.3)
    }
    assert sizes == {0.03: {"small"}, 0.3: {"small", "large"}}


@pytest.mark.parametrize("place", PLACES)
def test_what_a_mask_covers_is_told(place: str) -> None:
    """All of a thing within a mask of everything, nothing of it within one of another place."""
    thing = Thing("red", "circle", place, "small")
    assert share_covered(thing, np.ones((SIDE, SIDE), dtype=bool)) == 1.0
    other = PLACES[(PLACES.index(place) + 4) % len(PLACES)]
    assert share_covered(thing, mask_over(other, 0.03)) == 0.0


def test_slots_share_no_prompt() -> None:
    """As long as there are enough; then one takes another's, but none twice."""
    words = [str(number) for number in range(400)]
    drawn = [FreshPrompts(slot, 4) for slot in range(4)]
    sources = [random.Random(slot) for slot in range(4)]
    assign_names = [
        [prompts.fresh(lambda rng=rng: rng.choice(words)) for _ in range(60)]
        for prompts, rng in zip(drawn, sources, strict=True)
    ]
    assert len(set(itertools.chain(*assign_names))) == 240
    more = [drawn[0].fresh(lambda: sources[0].choice(words)) for _ in range(300)]
    assert len(set(assign_names[0] + more)) == 360


def test_nothing_new_is_said() -> None:
    """Where every prompt has come, the error says an example."""
    prompts = FreshPrompts(0, 1)
    assert prompts.fresh(lambda: "a cross") == "a cross"
    with pytest.raises(ValueError, match="after 1, only such as 'a cross'"):
        prompts.fresh(lambda: "a cross")
