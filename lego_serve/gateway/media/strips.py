"""Work on large images strip by strip, for the parts of Pillow that keep other threads waiting as they run."""

from collections.abc import Callable

from PIL import Image

STRIP_PIXELS = 2**20


def alpha_of(image: Image.Image) -> Image.Image:
    """Return the transparency of an image that has an alpha channel."""
    return _by_strips(image, "L", 1, lambda strip: strip.getchannel("A"))


def reduced(image: Image.Image, factor: int) -> Image.Image:
    """Return an image a whole factor smaller, each pixel the mean of those it covers."""
    return _by_strips(image, image.mode, factor, lambda strip: strip.reduce(factor))


def _by_strips(image: Image.Image, mode: str, factor: int, work: Callable[[Image.Image], Image.Image]) -> Image.Image:
    image.load()
    done = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
    rows = max(1, STRIP_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        done.paste(work(strip), (0, top // factor))
    return done
