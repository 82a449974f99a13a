"""Edits of the common rate as every side made them, in numbers: what reuse costs, and whether all are edits at all."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from loadgen.client import Sample
from loadgen.edits.likeness import psnr, ssim
from loadgen.edits.request import EditRequest
from loadgen.mixed.rounds import Seen

FULL = "full computation"  # the name of lego's other way
VISIBLE_255 = 8.0  # where a mask's pixels moved by less on average, nothing was edited to speak of
MOST_DB = 99.0  # counted for equal images


@dataclass(frozen=True, slots=True)
class Edited:
    """One request and its images (height, width, 3) of 8 bits; ``mask`` (height, width) is true where it edits."""

    request: EditRequest
    template: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    full: np.ndarray = field(repr=False)
    reused: np.ndarray = field(repr=False)
    baseline: np.ndarray = field(repr=False)


def edited_by_all(seen: Seen, count: int) -> list[Edited]:
    """At most so many edits of the last round's common rate, from its beginning to its end, that every side answered.

    Edits with an empty mask are left out, for there is nothing to see.
    """
    ours, theirs = seen.lego[-1], seen.baseline[-1].rated.samples
    full = ours.variants[FULL].rated.samples
    sides = zip(ours.rated.requests, full, ours.rated.samples, theirs, strict=True)
    found = [(r, samples) for r, *samples in sides if isinstance(r, EditRequest) and _are_images(r, samples)]
    step = max(1, math.ceil(len(found) / count))
    return [
        Edited(request, pixels(request.image), mask_pixels(request.mask), *(_made(each) for each in samples))
        for request, samples in found[::step]
    ]


def quality_of(edits: Sequence[Edited]) -> Mapping[str, object]:
    """Numbers of the edits; ``equal_outside`` should be all of them, ``visibly_edited_*`` nearly all."""
    alike = [ssim(each.full, each.reused, each.mask) for each in edits]
    noise = [min(MOST_DB, psnr(each.full, each.reused, each.mask)) for each in edits]
    return {
        "edits_looked_at": len(edits),
        "ssim_in_mask_mean": _rounded(_mean, alike),
        "ssim_in_mask_least": _rounded(min, alike),
        "psnr_in_mask_mean_db": _rounded(_mean, noise),
        "equal_outside": sum(np.array_equal(e.reused[~e.mask], e.template[~e.mask]) for e in edits),
        "visibly_edited_by_lego": sum(_moved(e.reused, e, e.mask) >= VISIBLE_255 for e in edits),
        "visibly_edited_by_baseline": sum(_moved(e.baseline, e, e.mask) >= VISIBLE_255 for e in edits),
        "baseline_outside_mean_255": _rounded(_mean, [_moved(e.baseline, e, ~e.mask) for e in edits]),
    }


def pixels(file: bytes) -> np.ndarray:
    """An image's file as (height, width, 3) of 8 bits."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


def mask_pixels(file: bytes) -> np.ndarray:
    """A mask's file as (height, width), true where it edits."""
    with Image.open(io.BytesIO(file)) as image:
        edited: np.ndarray = np.asarray(image.getchannel("A")) == 0
        return edited


def _are_images(request: EditRequest, samples: Sequence[Sample]) -> bool:
    """Whether there is something to see: a mask of something but not of everything, and an image of every side."""
    return 0.0 < request.mask_ratio < 1.0 and all(sample.is_ok for sample in samples)


def _made(sample: Sample) -> np.ndarray:
    assert sample.reply.image is not None
    return pixels(sample.reply.image)


def _moved(image: np.ndarray, edit: Edited, where: np.ndarray) -> float:
    """How far pixels are from the template's, on average, in 255ths."""
    return float(np.abs(image[where].astype(int) - edit.template[where].astype(int)).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rounded(of: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return round(float(of(values)), 4) if values else None
