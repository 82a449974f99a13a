"""Reads the masks of edits safely, and turns them into how much of each pixel is new."""

import numpy as np
from PIL import Image, ImageFilter

from lego_serve.gateway.media.uploads import bad_image, decode_alpha, open_upload

MAX_SPREAD = 64  # pixels, of a mask's dilation and of its feather


def decode_mask(data: bytes, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """Return where an image of a size (width, height) is to change: true (height, width) where the mask's alpha is 0.

    Raises RequestError; ``max_pixels`` is checked before any pixel is decoded.
    """
    mask = open_upload(data, "mask", ("PNG",), max_pixels)
    if not mask.image.has_transparency_data:
        raise bad_image("mask", "must have an alpha channel; what is transparent is edited")
    if mask.size != size:  # before its pixels are decoded
        sizes = f"is {mask.size[0]}x{mask.size[1]}, the image {size[0]}x{size[1]}; they must be of one size"
        raise bad_image("mask", sizes)
    edited: np.ndarray = np.asarray(decode_alpha(mask, "mask")) == 0
    return edited


def edit_weights(mask: np.ndarray, size: tuple[int, int], dilation: int, feather: int) -> np.ndarray:
    """Return how much of each pixel (height, width) is new, 0 to 255, at a size (width, height).

    The mask and the ``dilation`` pixels around it are all new; over the next ``feather`` pixels the weight falls to 0.
    """
    resized = _resize(mask, size)
    core = _dilate(resized, dilation)
    if not feather:
        return core
    half = feather // 2
    blurred = Image.fromarray(_dilate(resized, dilation + half)).filter(ImageFilter.BoxBlur(feather - half))
    weight: np.ndarray = np.maximum(core, np.asarray(blurred))
    return weight


def _resize(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask as 0 and 255 at a size (width, height); no stroke is lost, however thin, where it shrinks."""
    for axis, side in ((1, size[0]), (0, size[1])):
        if side < mask.shape[axis]:
            mask = _shrink(mask, axis, side)
    return np.array(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST))


def _shrink(mask: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Return a mask with a shorter axis: a new pixel is true where any old one that it covers, even in part, is."""
    full = mask.shape[axis]
    first = np.arange(side) * full // side
    last = (np.arange(1, side + 1) * full - 1) // side  # also the first of the next, where the two share a pixel
    touched: np.ndarray = np.logical_or.reduceat(mask, first, axis=axis) | mask.take(last, axis=axis)
    return touched


def _dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return the maximum within ``pixels`` of each pixel, along both axes; the cost is the same for any number."""
    if not pixels:
        return mask
    from scipy.ndimage import maximum_filter1d  # imported late: only a gateway that serves edits needs it

    for axis in (0, 1):
        mask = maximum_filter1d(mask, 2 * pixels + 1, axis=axis, mode="nearest")
    return mask
