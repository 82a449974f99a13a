"""Masks: what is refused, what is edited, and how edges fade."""

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFilter

from lego_serve.errors import RequestError
from lego_serve.gateway.media.masks import MAX_SPREAD, decode_mask, edit_weights

SIZE = (24, 16)
masks = arrays.arrays(bool, (16, 24))
any_masks = arrays.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20)))
sides = st.integers(1, 40)


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """An image as a file."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def rgba(mask: np.ndarray) -> Image.Image:
    """An image transparent where a mask says."""
    alpha = np.where(mask, 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.zeros((*mask.shape, 3), np.uint8), alpha]))


@settings(deadline=None)
@given(mask=masks)
def test_what_is_wholly_transparent_is_edited(mask: np.ndarray) -> None:
    """Alpha 0, and nothing else."""
    image = rgba(mask)
    assert np.array_equal(decode_mask(file_of(image), SIZE, 10_000), mask)
    half = np.asarray(image).copy()
    half[..., 3] = np.where(mask, 1, 255)
    assert not decode_mask(file_of(Image.fromarray(half)), SIZE, 10_000).any()


def test_a_palette_may_be_transparent_too() -> None:
    """And grey with alpha; what Pillow turns into RGBA has the same meaning."""
    palette = Image.new("P", SIZE, 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert decode_mask(file_of(palette, transparency=1), SIZE, 10_000).all()
    assert decode_mask(file_of(Image.new("LA", SIZE, (7, 0))), SIZE, 10_000).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "PNG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (file_of(Image.new("RGB", SIZE), "JPEG"), "PNG"),
        (file_of(Image.new("RGBA", SIZE), "WEBP"), "PNG"),
        (file_of(Image.new("RGBA", (24, 24))), "24x24"),
        (file_of(Image.new("RGB", SIZE)), "alpha"),
        (file_of(Image.new("L", SIZE)), "alpha"),
        (file_of(Image.new("I;16", SIZE)), "8 bits"),
        (file_of(Image.new("RGBA", SIZE))[:55], "damaged"),
        (file_of(Image.new("RGBA", (200, 200))), "10000 pixels"),
        (file_of(Image.new("RGBA", SIZE), save_all=True, append_images=[Image.new("RGBA", SIZE, "red")]), "animated"),
    ],
)
def test_what_is_no_mask_is_refused(data: bytes, message: str) -> None:
    """By name, before anything large is decoded."""
    with pytest.raises(RequestError, match=message) as refused:
        decode_mask(data, SIZE, 10_000)
    assert (refused.value.param, refused.value.code) == ("mask", "invalid_image")


@settings(max_examples=60, deadline=None)
@given(mask=masks, dilation=st.integers(0, 4), feather=st.integers(0, 6))
def test_all_of_a_mask_is_new_and_nothing_far_from_it(mask: np.ndarray, dilation: int, feather: int) -> None:
    """255 within ``dilation`` pixels of it, 0 beyond ``dilation + feather``, and never less closer to it."""
    weight = edit_weights(mask, SIZE, dilation, feather)
    far = distances(mask)
    assert (weight[far <= dilation] == 255).all()
    assert (weight[far > dilation + feather] == 0).all()


def test_an_edge_fades_step_by_step() -> None:
    """Away from a straight edge the weight falls."""
    mask = np.zeros((16, 24), dtype=bool)
    mask[:, :8] = True
    row = edit_weights(mask, SIZE, 1, 4)[8].astype(int)
    assert list(row[:9]) == [255] * 9
    assert 255 > row[9] > row[10] > row[11] > 0
    assert not row[13:].any()


@settings(max_examples=80, deadline=None)
@given(mask=any_masks, dilation=st.integers(0, 12), feather=st.integers(0, 12))
def test_masks_grow_as_by_a_window_around_every_pixel(mask: np.ndarray, dilation: int, feather: int) -> None:
    """To the bit, at borders too, and where the window is larger than the image."""
    height, width = mask.shape
    assert np.array_equal(edit_weights(mask, (width, height), dilation, feather), by_windows(mask, dilation, feather))


def test_the_widest_spread_of_a_large_mask_is_soon_done() -> None:
    """What it takes does not grow with the window around each pixel; a gateway has others to answer."""
    mask = np.zeros((1440, 1440), dtype=bool)
    mask[700:720, 700:720] = True
    edit_weights(mask[:16, :16], (16, 16), 1, 1)  # what is imported on the way is no part of it
    started = time.process_time()
    weight = edit_weights(mask, (1440, 1440), MAX_SPREAD, MAX_SPREAD)
    assert time.process_time() - started < 2
    assert weight[700 - MAX_SPREAD, 719 + MAX_SPREAD] == 255
    assert 255 > weight[710, 719 + MAX_SPREAD + 32] > 0
    assert weight[710, 719 + 2 * MAX_SPREAD + 1] == 0


@settings(max_examples=80, deadline=None)
@given(data=st.data(), mask=any_masks)
def test_a_mask_that_shrinks_keeps_all_that_it_touches(data: st.DataObject, mask: np.ndarray) -> None:
    """A pixel is new where any part of it was masked."""
    rows, columns = mask.shape
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    touched = [
        [mask[y * rows // height : -(-(y + 1) * rows // height), x * columns // width : -(-(x + 1) * columns // width)]
         for x in range(width)]
        for y in range(height)
    ]  # fmt: skip
    wanted = np.array([[255 * part.any() for part in row] for row in touched])
    assert np.array_equal(edit_weights(mask, (width, height), 0, 0), wanted)


@settings(max_examples=80, deadline=None)
@given(mask=any_masks, width=sides, height=sides)
def test_no_mask_comes_out_empty_at_another_size(mask: np.ndarray, width: int, height: int) -> None:
    """Whichever side shrinks or grows; where both grow its pixels are repeated."""
    weight = edit_weights(mask, (width, height), 0, 0)
    assert weight.any() == mask.any()
    if height >= mask.shape[0] and width >= mask.shape[1]:
        given = Image.fromarray(mask.astype(np.uint8) * 255)
        assert np.array_equal(weight, np.asarray(given.resize((width, height), Image.Resampling.NEAREST)))


def by_windows(mask: np.ndarray, dilation: int, feather: int) -> np.ndarray:
    """The weights by a filter that looks at all pixels around each."""

    def grown(pixels: int) -> Image.Image:
        return given.filter(ImageFilter.MaxFilter(2 * pixels + 1)) if pixels else given

    given = Image.fromarray(mask.astype(np.uint8) * 255)
    core = np.asarray(grown(dilation))
    if not feather:
        return core
    half = feather // 2
    faded = grown(dilation + half).filter(ImageFilter.BoxBlur(feather - half))
    spread: np.ndarray = np.maximum(core, np.asarray(faded))
    return spread


def distances(mask: np.ndarray) -> np.ndarray:
    """Steps of a king from each pixel to the mask; far away where there is none."""
    places = np.argwhere(mask)
    grid = np.stack(np.indices(mask.shape), axis=-1)
    if not len(places):
        return np.full(mask.shape, 99)
    found: np.ndarray = np.abs(grid[:, :, None] - places[None, None]).max(axis=-1).min(axis=-1)
    return found
