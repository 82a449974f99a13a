"""Templates: images of scenes that the shipped model knows, and those scenes in its words."""

import io
import random
from functools import lru_cache

from PIL import Image

from loadgen.edits.drawing import drawn
from loadgen.edits.scenes import scene_of
from loadgen.edits.wording import caption


@lru_cache(maxsize=1024)
def template_file(width: int, height: int, number: int) -> bytes:
    """A PNG file; the same for the same size and number, and the same scene at every size."""
    buffer = io.BytesIO()
    Image.fromarray(drawn(scene_of(number), width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=1024)
def template_caption(number: int) -> str:
    """What the template shows, always in the same words."""
    return caption(scene_of(number), random.Random(f"caption {number}"))
