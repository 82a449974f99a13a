"""Masks of edits: read safely, and spread into how much of each pixel is new."""

import numpy as np
from PIL import Image, ImageFilter

from lego_serve.gateway.media.uploads import bad, decoded, opened

MAX_SPREAD = 64


def decode_mask(data: bytes, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """Where an image of so many pixels (width, height) is to change: true where the mask's alpha is 0.

    Raises RequestError; the pixel cap is checked before any pixel is decoded.
    """
    mask = opened(data, "mask", ("PNG",), max_pixels)
    if not mask.image.has_transparency_data:
        raise bad("mask", "must have an alpha channel; what is transparent is edited")
    alpha = decoded(mask, "RGBA", "mask").getchannel("A")
    if alpha.size != size:
        raise bad("mask", f"is {alpha.width}x{alpha.height}, the image {size[0]}x{size[1]}; they must be of one size")
    edited: np.ndarray = np.asarray(alpha) == 0
    return edited


def weights_of(mask: np.ndarray, size: tuple[int, int], dilation: int, feather: int) -> np.ndarray:
    """How much of each pixel is new, 0 to 255, at a size (width, height): the mask grown, its edge faded outwards.

    All of the mask and of the ``dilation`` pixels around it is new; over the next ``feather`` pixels the new fades.
    """
    given = _sized(mask, size)
    core = _grown(given, dilation)
    if not feather:
        return core
    half = feather // 2
    faded = Image.fromarray(_grown(given, dilation + half)).filter(ImageFilter.BoxBlur(feather - half))
    spread: np.ndarray = np.maximum(core, np.asarray(faded))
    return spread


def _sized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask as 0 and 255 at a size; a side that shrinks keeps all that was touched, so that no thin stroke is lost."""
    for axis, side in ((1, size[0]), (0, size[1])):
        if side < mask.shape[axis]:
            mask = _shrunk(mask, axis, side)
    return np.array(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST))


def _shrunk(mask: np.ndarray, axis: int, side: int) -> np.ndarray:
    """True where any of what comes to be one pixel is, be it a part of a pixel that two share."""
    full = mask.shape[axis]
    first = np.arange(side) * full // side
    last = (np.arange(1, side + 1) * full - 1) // side  # the next one's first where the two share it
    touched: np.ndarray = np.logical_or.reduceat(mask, first, axis=axis) | mask.take(last, axis=axis)
    return touched


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The greatest within so many pixels of each: along rows and then columns, at the same cost for any number."""
    if not pixels:
        return mask
    from scipy.ndimage import maximum_filter1d  # only a gateway that is asked for edits needs it

    for axis in (0, 1):
        mask = maximum_filter1d(mask, 2 * pixels + 1, axis=axis, mode="nearest")
    return mask
