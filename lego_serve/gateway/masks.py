"""Masks of edits: read safely, and spread into how much of each pixel is new."""

import numpy as np
from PIL import Image, ImageFilter

from lego_serve.gateway.uploads import bad, decoded, opened

MAX_SPREAD = 64


def decode_mask(data: bytes, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """Where a picture of so many pixels (width, height) is to change: true where the mask's alpha is 0.

    Raises RequestError; the pixel cap is checked before any pixel is decoded.
    """
    mask = opened(data, "mask", ("PNG",), max_pixels)
    if not mask.has_transparency_data:
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
    given = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
    core = np.asarray(_grown(given, dilation))
    if not feather:
        return core.copy()
    half = feather // 2
    faded = _grown(given, dilation + half).filter(ImageFilter.BoxBlur(feather - half))
    spread: np.ndarray = np.maximum(core, np.asarray(faded))
    return spread


def _grown(mask: Image.Image, pixels: int) -> Image.Image:
    return mask.filter(ImageFilter.MaxFilter(2 * pixels + 1)) if pixels else mask
