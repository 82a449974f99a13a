"""Template images of scenes that the shipped model knows, and captions in its words."""

import random
from functools import lru_cache

from PIL import Image

from loadgen.edits.drawing import draw_scene
from loadgen.edits.scenes import template_scene
from loadgen.edits.wording import caption
from loadgen.images import png_bytes


@lru_cache(maxsize=1024)
def template_file(width: int, height: int, number: int) -> bytes:
    """Return a template as a PNG file; a number shows the same scene at every size."""
    return png_bytes(Image.fromarray(draw_scene(template_scene(number), width, height)))


@lru_cache(maxsize=1024)
def template_caption(number: int) -> str:
    """Return a caption of the unedited template, always in the same words."""
    return caption(template_scene(number), random.Random(f"caption {number}"))
