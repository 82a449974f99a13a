"""Masks of edits as in production: the distribution of mask ratios, and shapes that cover a given ratio.

The quantiles are those of two samples published with FlashPS (InstGenIE, EuroSys 2026): 970 masks of a try-on service,
one for each of its templates, and 1,918 masks of ControlNet inpainting.  Three of the latter are empty and none of
the former; of those one in a thousand is left empty here, which a sample of that size need not show.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from loadgen.images import png_bytes

CENTRES = (0.3, 0.7)  # the range of a shape's middle, in shares of a side
STRETCH = 0.5  # a shape's largest aspect ratio, as the logarithm of its root
LOBES = range(2, 6)  # waves around a blob's outline
LOBE_DEPTH = 0.3  # of the two-lobed wave; waves of more lobes are shallower


@dataclass(frozen=True, slots=True)
class MaskRatios:
    """The distribution of mask ratios, the part of an image that a mask covers.

    ``quantiles``: (share of the masks that are not empty, ratio that so many do not exceed), ascending from 0 to 1.
    """

    quantiles: tuple[tuple[float, float], ...]
    empty_share: float

    @property
    def mean(self) -> float:
        """The mean ratio of all masks, empty ones included."""
        shares, ratios = zip(*self.quantiles, strict=True)
        return (1.0 - self.empty_share) * float(np.trapezoid(ratios, shares))

    def draw(self, rng: np.random.Generator) -> float:
        """Return the ratio of one random mask."""
        is_empty, share = rng.random() < self.empty_share, rng.random()
        shares, ratios = zip(*self.quantiles, strict=True)
        return 0.0 if is_empty else float(np.interp(share, shares, ratios))


TRY_ON = MaskRatios(
    (
        (0.0, 0.0157), (0.01, 0.0208), (0.05, 0.0376), (0.1, 0.0484), (0.25, 0.0673), (0.5, 0.0952), (0.6, 0.1103),
        (0.7, 0.1278), (0.8, 0.1545), (0.9, 0.2082), (0.95, 0.2446), (0.99, 0.3203), (1.0, 0.4209),
    ),
    empty_share=0.001,
)  # fmt: skip
INPAINT = MaskRatios(
    (
        (0.0, 0.0001), (0.005, 0.0021), (0.02, 0.0067), (0.05, 0.0183), (0.1, 0.0599), (0.15, 0.1295), (0.25, 0.1644),
        (0.5, 0.2206), (0.6, 0.2514), (0.7, 0.3425), (0.75, 0.6121), (0.8, 0.7572), (0.85, 0.8259), (0.9, 0.8729),
        (0.95, 0.9164), (0.99, 0.9635), (1.0, 0.9998),
    ),
    empty_share=3 / 1918,
)  # fmt: skip


def draw_mask(
    ratio: float, width: int, height: int, rng: np.random.Generator, middle: tuple[float, float] | None = None
) -> np.ndarray:
    """Return a box, an ellipse or a blob that covers the ratio to the pixel: (height, width), true where it edits.

    Its middle lies at ``middle``, (x, y) in shares of the sides, or at random.  A shape that would reach beyond the
    image grows elsewhere instead.  Raises ValueError for ratios outside 0..1.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"a mask covers 0 to 1 of an image, not {ratio}")
    count = round(ratio * width * height)
    mask = np.zeros(width * height, dtype=bool)
    distance = SHAPES[int(rng.integers(len(SHAPES)))]
    x, y = _offsets(width, height, rng, middle)
    distances = distance(x, y, rng).ravel()
    if count:
        mask[np.argpartition(distances, count - 1)[:count]] = True
    return mask.reshape(height, width)


def mask_file(mask: np.ndarray) -> bytes:
    """Return the mask as a PNG file of OpenAI's kind: transparent where the image is to change."""
    alpha = np.where(mask, 0, 255).astype(np.uint8)
    return png_bytes(Image.fromarray(np.dstack([np.zeros_like(alpha), alpha]), "LA"))


def _offsets(
    width: int, height: int, rng: np.random.Generator, middle: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's offset from a middle, stretched: x and y, each (height, width)."""
    middle_x, middle_y = middle or rng.uniform(*CENTRES, size=2)
    stretch = float(np.exp(rng.uniform(-STRETCH, STRETCH)))
    x = (np.arange(width) - middle_x * width) * stretch
    y = (np.arange(height) - middle_y * height) / stretch
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x, grid_y


def _box(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    distances: np.ndarray = np.maximum(np.abs(x), np.abs(y))
    return distances


def _ellipse(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    distances: np.ndarray = np.hypot(x, y)
    return distances


def _blob(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = np.arctan2(y, x)
    reach = np.ones_like(angle)
    for lobes in LOBES:
        depth, turn = rng.uniform(0.0, LOBE_DEPTH / (lobes - 1)), rng.uniform(0.0, 2 * np.pi)
        reach += depth * np.cos(lobes * angle + turn)
    distances: np.ndarray = np.hypot(x, y) / reach
    return distances


SHAPES: tuple[Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray], ...] = (_box, _ellipse, _blob)
