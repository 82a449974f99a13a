"""Masks of edits: read safely, and spread into how much of each pixel is new."""

import io

import numpy as np
from PIL import Image, ImageFilter

from lego_serve.errors import RequestError

MAX_SPREAD = 64


def decode_mask(data: bytes, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    """Where a picture of so many pixels (width, height) is to change: true where the mask's alpha is 0.

    Raises RequestError; the pixel cap is checked before any pixel is decoded.
    """
    try:
        mask = Image.open(io.BytesIO(data), formats=("PNG",))
    except Exception:  # Pillow raises whatever its parsers meet
        raise _bad("`mask` must be a PNG picture.") from None
    if mask.width * mask.height > max_pixels:
        raise _bad(f"`mask` has more than {max_pixels} pixels.")
    if getattr(mask, "n_frames", 1) > 1:
        raise _bad("`mask` must not be animated.")
    if mask.size != size:
        raise _bad(f"`mask` is {mask.width}x{mask.height}, the image {size[0]}x{size[1]}; they must be of one size.")
    if mask.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise _bad("`mask` must have 8 bits a channel.")
    if not mask.has_transparency_data:
        raise _bad("`mask` must have an alpha channel; what is transparent is edited.")
    try:
        alpha = mask.convert("RGBA").getchannel("A")
    except Exception:
        raise _bad("`mask` is damaged and cannot be decoded.") from None
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


def _bad(message: str) -> RequestError:
    return RequestError(message, param="mask", code="invalid_image")
