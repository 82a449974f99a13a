"""Templates: pictures of one or two shapes on a plain ground, in the colours that the shipped model knows."""

import io
import random
from functools import lru_cache

from PIL import Image, ImageDraw

from loadgen.traffic import SHAPES

COLOURS = {
    "red": (215, 38, 38),
    "orange": (245, 135, 20),
    "yellow": (250, 215, 50),
    "green": (45, 155, 75),
    "blue": (45, 95, 215),
    "purple": (135, 60, 175),
}
SIDES = {"circle": 96, "square": 4, "triangle": 3}  # of a regular polygon; with so many a circle to the eye
FINER = 4  # times as many pixels a side are drawn, for smooth edges


@lru_cache(maxsize=1024)
def template_file(width: int, height: int, number: int) -> bytes:
    """A PNG file; the same for the same size and number, and the same scene at every size."""
    rng = random.Random(f"template {number}")
    names = rng.sample(list(COLOURS), 3)
    big = FINER * width, FINER * height
    image = Image.new("RGB", big, COLOURS[names[0]])
    drawing = ImageDraw.Draw(image)
    for index in range(rng.choice((1, 2))):
        shape, radius = rng.choice(SHAPES), rng.choice((0.09, 0.14)) * min(big)
        x, y = (0.3 if index == 0 else 0.7) * big[0], rng.choice((0.3, 0.5, 0.7)) * big[1]
        drawing.regular_polygon((x, y, radius), SIDES[shape], fill=COLOURS[names[index + 1]])
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.BOX).save(buffer, "PNG")
    return buffer.getvalue()
