"""Image files to and from arrays."""

import io

import numpy as np
from PIL import Image


def png_bytes(image: Image.Image) -> bytes:
    """Return the image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def read_pixels(file: bytes) -> np.ndarray:
    """Return an image file's pixels (height, width, 3) of 8 bits."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))
