"""The quality of edits of the common rate: what reuse costs, and whether every system edited within the mask."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from loadgen.client import Sample
from loadgen.edits.image_metrics import psnr, ssim
from loadgen.edits.request import EditRequest
from loadgen.images import read_pixels
from loadgen.mixed.rounds import Measurements

FULL = "full computation"  # the name of lego's variant without reuse
VISIBLE_255 = 8.0  # a mask whose pixels moved by less on average was not visibly edited
MOST_DB = 99.0  # counted for equal images


@dataclass(frozen=True, slots=True)
class EditImages:
    """The images (height, width, 3) of 8 bits of one request; ``mask`` (height, width) is true where it edits."""

    request: EditRequest
    template: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    full: np.ndarray = field(repr=False)
    reused: np.ndarray = field(repr=False)
    baseline: np.ndarray = field(repr=False)


def comparable_edits(measured: Measurements, count: int) -> list[EditImages]:
    """Return at most ``count`` edits of the last round's common rate that every system answered, spread evenly.

    Edits with an empty or a full mask are left out: nothing, or no outside, can be compared.
    """
    lego, baseline = measured.lego[-1], measured.baseline[-1]
    rows = zip(
        lego.rated.requests,
        lego.variants[FULL].rated.samples,
        lego.rated.samples,
        baseline.rated.samples,
        strict=True,
    )
    comparable = [
        (request, full, reused, plain)
        for request, full, reused, plain in rows
        if isinstance(request, EditRequest)
        and 0.0 < request.mask_ratio < 1.0
        and full.is_ok
        and reused.is_ok
        and plain.is_ok
    ]
    step = max(1, math.ceil(len(comparable) / count))
    return [
        EditImages(
            request,
            template=read_pixels(request.image),
            mask=read_mask(request.mask),
            full=_sample_pixels(full),
            reused=_sample_pixels(reused),
            baseline=_sample_pixels(plain),
        )
        for request, full, reused, plain in comparable[::step]
    ]


def edit_quality(edits: Sequence[EditImages]) -> Mapping[str, object]:
    """Return figures of the edits; ``equal_outside`` should be all of them, ``visibly_edited_*`` nearly all."""
    similarities = [ssim(edit.full, edit.reused, edit.mask) for edit in edits]
    decibels = [min(MOST_DB, psnr(edit.full, edit.reused, edit.mask)) for edit in edits]
    outside_255 = [_distance_255(edit.baseline, edit, ~edit.mask) for edit in edits]
    return {
        "edits_looked_at": len(edits),
        "ssim_in_mask_mean": _mean(similarities),
        "ssim_in_mask_least": round(min(similarities), 4) if edits else None,
        "psnr_in_mask_mean_db": _mean(decibels),
        "equal_outside": sum(np.array_equal(e.reused[~e.mask], e.template[~e.mask]) for e in edits),
        "visibly_edited_by_lego": sum(_distance_255(e.reused, e, e.mask) >= VISIBLE_255 for e in edits),
        "visibly_edited_by_baseline": sum(_distance_255(e.baseline, e, e.mask) >= VISIBLE_255 for e in edits),
        "baseline_outside_mean_255": _mean(outside_255),
    }


def read_mask(file: bytes) -> np.ndarray:
    """Return a mask's file as (height, width), true where it edits."""
    with Image.open(io.BytesIO(file)) as image:
        mask: np.ndarray = np.asarray(image.getchannel("A")) == 0
        return mask


def _sample_pixels(sample: Sample) -> np.ndarray:
    assert sample.reply.image is not None
    return read_pixels(sample.reply.image)


def _distance_255(image: np.ndarray, edit: EditImages, where: np.ndarray) -> float:
    """Return how far an image's pixels are from the template's, on average, in 255ths."""
    return float(np.abs(image[where].astype(int) - edit.template[where].astype(int)).mean())


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
