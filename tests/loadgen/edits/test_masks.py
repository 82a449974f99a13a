import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loadgen.edits.masks import INPAINT, SHAPES, TRY_ON, MaskRatios, draw_mask, mask_file

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from([64, 96, 130, 256])


def drawn(ratios: MaskRatios, seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([ratios.draw(rng) for _ in range(count)])


def test_means_are_productions() -> None:
    """0.112 of an image in try-on and 0.354 in inpainting, as the samples have it."""
    assert TRY_ON.mean == pytest.approx(0.112, rel=0.02)
    assert INPAINT.mean == pytest.approx(0.354, rel=0.02)


@given(SEEDS, st.sampled_from([TRY_ON, INPAINT]))
@settings(max_examples=20)
def test_what_is_drawn_has_the_mean(seed: int, ratios: MaskRatios) -> None:
    """Within five standard errors, whatever the seed."""
    found = drawn(ratios, seed, 2000)
    assert abs(found.mean() - ratios.mean) < 5 * found.std() / len(found) ** 0.5
    assert 0.0 <= found.min() <= found.max() <= 1.0


@given(SEEDS)
@settings(max_examples=10)
def test_what_is_drawn_has_the_quantiles(seed: int) -> None:
    """Half, nine in ten and one in twenty of the masks are no larger than the sample's; inpainting has two peaks."""
    try_on, inpaint = drawn(TRY_ON, seed, 3000), drawn(INPAINT, seed, 3000)
    assert np.quantile(try_on, [0.05, 0.5, 0.9]) == pytest.approx([0.0376, 0.0952, 0.2082], rel=0.12)
    assert np.quantile(inpaint, [0.25, 0.5, 0.9]) == pytest.approx([0.1644, 0.2206, 0.8729], rel=0.12)
    assert ((inpaint > 0.4) & (inpaint < 0.6)).mean() < 0.08


def test_empty_masks_occur() -> None:
    """At the configured frequency."""
    for ratios in (TRY_ON, INPAINT):
        share = (drawn(ratios, 1, 40_000) == 0).mean()
        assert share == pytest.approx(ratios.empty_share, abs=0.0008)
        assert share > 0


@given(st.floats(0.0, 1.0), SIDES, SIDES, SEEDS)
@settings(max_examples=60)
def test_a_mask_covers_what_is_asked_for(ratio: float, width: int, height: int, seed: int) -> None:
    """To the nearest pixel, whatever its shape and wherever it lies."""
    mask = draw_mask(ratio, width, height, np.random.default_rng(seed))
    assert mask.shape == (height, width)
    assert abs(mask.sum() - ratio * width * height) <= 0.5


@given(SEEDS)
@settings(max_examples=20)
def test_a_seed_draws_the_same_mask_again(seed: int) -> None:
    """And another seed another one."""
    one, again, other = (draw_mask(0.2, 96, 96, np.random.default_rng(each)) for each in (seed, seed, seed + 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@given(SEEDS)
@settings(max_examples=20)
def test_a_mask_is_in_one_place(seed: int) -> None:
    """It lies compactly: its bounding box is not much larger than the mask itself."""
    mask = draw_mask(0.1, 128, 128, np.random.default_rng(seed))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    assert mask.sum() > 0.3 * box


def test_every_shape_is_drawn() -> None:
    """A box fills its bounding box, an ellipse about pi quarters of it, and free shapes as they like."""
    fills = []
    for seed in range(60):
        mask = draw_mask(0.04, 256, 256, np.random.default_rng(seed))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        fills.append(mask.sum() / ((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)))
    boxes = sum(fill > 0.93 for fill in fills)
    ellipses = sum(0.75 < fill < 0.82 for fill in fills)
    assert min(boxes, ellipses, 60 - boxes - ellipses) >= 60 / len(SHAPES) / 3


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_there_is_no_such_ratio(ratio: float) -> None:
    """A mask covers between nothing and everything."""
    with pytest.raises(ValueError, match="0 to 1"):
        draw_mask(ratio, 16, 16, np.random.default_rng(0))


def test_files_are_transparent_where_they_edit() -> None:
    """As OpenAI's masks are."""
    mask = draw_mask(0.3, 64, 48, np.random.default_rng(0))
    with Image.open(io.BytesIO(mask_file(mask))) as image:
        assert (image.format, image.size) == ("PNG", (64, 48))
        assert np.array_equal(np.asarray(image.getchannel("A")), np.where(mask, 0, 255))
