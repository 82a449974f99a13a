"""Pictures in and out: decoding uploads safely, encoding results with their seed."""

import base64
import io

import numpy as np
from PIL import Image, PngImagePlugin

from lego_serve.core.jobs.job import Picture
from lego_serve.gateway.media.uploads import decoded, opened

FORMATS = ("PNG", "JPEG", "WEBP")


def decode_upload(data: bytes, max_pixels: int) -> Image.Image:
    """An uploaded picture as RGB.  Raises RequestError; the pixel cap is checked before any pixel is decoded."""
    return decoded(opened(data, "image", FORMATS, max_pixels), "RGB", "image")


def fit_size(picture: Image.Image, multiple: int, low: int, high: int) -> tuple[int, int]:
    """The picture's own size, rounded to the multiple and kept within bounds."""
    sides = (min(max(round(side / multiple) * multiple, low), high) for side in picture.size)
    return next(sides), next(sides)


def to_array(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """Pixels (height, width, 3) of 8 bits at a size."""
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)


def encode(picture: Picture, output_format: str, compression: int | None) -> str:
    """A finished picture as base64 of a file; a PNG carries its seed."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    out = io.BytesIO()
    if output_format == "png":
        words = PngImagePlugin.PngInfo()
        words.add_text("seed", str(picture.seed))
        image.save(out, "PNG", pnginfo=words)
    elif output_format == "webp" and compression is None:
        image.save(out, "WEBP", lossless=True)
    else:
        image.save(out, output_format.upper(), quality=90 if compression is None else max(1, compression))
    return base64.b64encode(out.getvalue()).decode()


def enlarge(picture: Picture, width: int, height: int) -> Picture:
    """A preview of a pixel a latent, brought smoothly to the size of the picture it stands for."""
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)
    return Picture(width, height, image.resize((width, height), Image.Resampling.BICUBIC).tobytes(), picture.seed)
