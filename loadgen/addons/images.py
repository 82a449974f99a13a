"""Control images for ControlNets: white outlines of shapes on black."""

import base64
import random
from functools import lru_cache

from PIL import Image, ImageDraw

from loadgen.images import png_bytes

IMAGES = 32  # of each size


@lru_cache(maxsize=1024)
def outlines(width: int, height: int, number: int) -> str:
    """Return an image as base64 of a PNG file; the same size and number give the same image."""
    rng = random.Random(f"{width}x{height}/{number}")
    image = Image.new("RGB", (width, height))
    drawing = ImageDraw.Draw(image)
    side = min(width, height)
    for x_share in (0.28, 0.72):
        radius = rng.uniform(0.12, 0.22) * side
        y = rng.uniform(0.3, 0.7) * height
        corners = rng.choice((3, 4, 64))  # a triangle, a square, nearly a circle
        circle = (x_share * width, y, radius)
        drawing.regular_polygon(circle, corners, outline="white", width=max(1, round(0.02 * side)))
    return base64.b64encode(png_bytes(image)).decode()
