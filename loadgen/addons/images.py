"""Images for ControlNets to follow: white outlines of shapes on black."""

import base64
import io
import random
from functools import lru_cache

from PIL import Image, ImageDraw

IMAGES = 32  # of each size


@lru_cache(maxsize=1024)
def outlines(width: int, height: int, number: int) -> str:
    """An image as base64 of a PNG file; the same for the same size and number."""
    rng = random.Random(f"{width}x{height}/{number}")
    image = Image.new("RGB", (width, height))
    drawing = ImageDraw.Draw(image)
    side = min(width, height)
    for place in range(2):
        radius = rng.uniform(0.12, 0.22) * side
        x = (0.28 if place == 0 else 0.72) * width
        y = rng.uniform(0.3, 0.7) * height
        sides = rng.choice((3, 4, 64))  # a triangle, a square, all but a circle
        drawing.regular_polygon((x, y, radius), sides, outline="white", width=max(1, round(0.02 * side)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
