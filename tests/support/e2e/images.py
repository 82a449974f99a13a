"""Images as they go to a server and come back."""

import base64
import io

import numpy as np
from PIL import Image

PROMPT = "a large red circle on the left, blue background"


def pixels(data: dict) -> np.ndarray:
    """The pixels of one image of an answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["b64_json"]))).convert("RGB"))


def png(pixels: np.ndarray) -> bytes:
    """An image as a file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def mask_file(mask: np.ndarray) -> bytes:
    """A mask as OpenAI wants it: transparent where the image is to change."""
    return png(np.dstack([np.zeros((*mask.shape, 3), np.uint8), np.where(mask, 0, 255).astype(np.uint8)]))
