"""Decodes uploaded images safely, and encodes results with their seed."""

import base64
import io

import numpy as np
from PIL import Image, PngImagePlugin

from lego_serve.core.jobs.job import GeneratedImage
from lego_serve.gateway.media.colours import WHITE, Ground
from lego_serve.gateway.media.small_png import encode_small_png
from lego_serve.gateway.media.uploads import decode_colours, open_upload

FORMATS = ("PNG", "JPEG", "WEBP")
DEFAULT_QUALITY = 90  # of JPEG and WebP
SMALL_PIXELS = 128 * 128
QUICK_FORMATS = ("png", "jpeg")  # a lossless WebP takes ten times as long


def decode_upload(data: bytes, max_pixels: int, ground: Ground = WHITE) -> Image.Image:
    """Return an uploaded image as sRGB, on a ground where it is transparent; a very large one is scaled down.

    Raises RequestError; ``max_pixels`` is checked before any is decoded.
    """
    return decode_sized_upload(data, max_pixels, ground)[0]


def decode_sized_upload(data: bytes, max_pixels: int, ground: Ground = WHITE) -> tuple[Image.Image, tuple[int, int]]:
    """Return what ``decode_upload`` does, and the size (width, height) before it is scaled down."""
    upload = open_upload(data, "image", FORMATS, max_pixels)
    return decode_colours(upload, "image", ground), upload.size


def fit_size(image: Image.Image, multiple: int, low: int, high: int) -> tuple[int, int]:
    """Return the image's own size (width, height), rounded to the multiple and kept within bounds."""
    width, height = (min(max(round(side / multiple) * multiple, low), high) for side in image.size)
    return width, height


def to_array(image: Image.Image, width: int, height: int) -> np.ndarray:
    """Return 8-bit pixels (height, width, 3) of an image at a size."""
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)


def encode(image: GeneratedImage, output_format: str, compression: int | None, request: str | None = None) -> str:
    """Return a finished image as base64 of a file."""
    return base64.b64encode(encode_file(image, output_format, compression, request)).decode()


def encode_file(
    image: GeneratedImage, output_format: str, compression: int | None, request: str | None = None
) -> bytes:
    """Return a finished image as a file; a PNG carries its seed, and its request where one is given."""
    if output_format == "png" and request is None and image.width * image.height <= SMALL_PIXELS:
        return encode_small_png(image.width, image.height, image.rgb, {"seed": str(image.seed)})
    pillow = Image.frombytes("RGB", (image.width, image.height), image.rgb)
    file = io.BytesIO()
    if output_format == "png":
        metadata = PngImagePlugin.PngInfo()
        metadata.add_text("seed", str(image.seed))
        if request is not None:
            metadata.add_itxt("lego_serve", request)
        pillow.save(file, "PNG", pnginfo=metadata)
    elif output_format == "webp" and compression is None:
        pillow.save(file, "WEBP", lossless=True)
    else:
        quality = DEFAULT_QUALITY if compression is None else max(1, compression)
        pillow.save(file, output_format.upper(), quality=quality)
    return file.getvalue()


def is_quick(image: GeneratedImage, output_format: str) -> bool:
    """Whether a file is made in less time than a thread takes to begin with it: in a millisecond or two at most."""
    return output_format in QUICK_FORMATS and image.width * image.height <= SMALL_PIXELS


def enlarge(image: GeneratedImage, width: int, height: int) -> GeneratedImage:
    """Return a preview, which has one pixel for each of the latents, resized smoothly to the size of its image."""
    pillow = Image.frombytes("RGB", (image.width, image.height), image.rgb)
    return GeneratedImage(width, height, pillow.resize((width, height), Image.Resampling.BICUBIC).tobytes(), image.seed)
