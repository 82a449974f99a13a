"""Images in and out: decoding uploads safely, encoding results with their seed."""

import base64
import io

import numpy as np
from PIL import Image, PngImagePlugin

from lego_serve.core.jobs.job import GeneratedImage
from lego_serve.gateway.media.uploads import decoded, opened

FORMATS = ("PNG", "JPEG", "WEBP")


def decode_upload(data: bytes, max_pixels: int) -> Image.Image:
    """An uploaded image as RGB.  Raises RequestError; the pixel cap is checked before any pixel is decoded."""
    return decoded(opened(data, "image", FORMATS, max_pixels), "RGB", "image")


def fit_size(image: Image.Image, multiple: int, low: int, high: int) -> tuple[int, int]:
    """The image's own size, rounded to the multiple and kept within bounds."""
    sides = (min(max(round(side / multiple) * multiple, low), high) for side in image.size)
    return next(sides), next(sides)


def to_array(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Pixels (height, width, 3) of 8 bits at a size."""
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)


def encode(image: GeneratedImage, output_format: str, compression: int | None) -> str:
    """A finished image as base64 of a file; a PNG carries its seed."""
    pillow = Image.frombytes("RGB", (image.width, image.height), image.rgb)
    out = io.BytesIO()
    if output_format == "png":
        words = PngImagePlugin.PngInfo()
        words.add_text("seed", str(image.seed))
        pillow.save(out, "PNG", pnginfo=words)
    elif output_format == "webp" and compression is None:
        pillow.save(out, "WEBP", lossless=True)
    else:
        pillow.save(out, output_format.upper(), quality=90 if compression is None else max(1, compression))
    return base64.b64encode(out.getvalue()).decode()


def enlarge(image: GeneratedImage, width: int, height: int) -> GeneratedImage:
    """A preview of a pixel a latent, brought smoothly to the size of the image it stands for."""
    pillow = Image.frombytes("RGB", (image.width, image.height), image.rgb)
    return GeneratedImage(width, height, pillow.resize((width, height), Image.Resampling.BICUBIC).tobytes(), image.seed)
