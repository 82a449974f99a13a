"""How alike images are."""

import math

import numpy as np
import pytest

from lego_serve.image_metrics import C1, C2, psnr, ssim

RNG = np.random.default_rng(1)
IMAGE = RNG.integers(0, 256, (32, 24, 3), dtype=np.uint8)
EVERYWHERE = np.ones((32, 24), dtype=bool)


def test_an_image_is_like_itself() -> None:
    """SSIM is 1 and PSNR infinite."""
    assert ssim(IMAGE, IMAGE, EVERYWHERE) == pytest.approx(1)
    assert psnr(IMAGE, IMAGE, EVERYWHERE) == math.inf


def test_ssim_is_its_formula_at_one_pixel() -> None:
    """Of the 7 x 7 window around it, channels averaged."""
    other = RNG.integers(0, 256, IMAGE.shape, dtype=np.uint8)
    mask = np.zeros_like(EVERYWHERE)
    mask[10, 12] = True
    scores = []
    for channel in range(3):
        x, y = (p[7:14, 9:16, channel].astype(float) for p in (IMAGE, other))
        cov = (x * y).mean() - x.mean() * y.mean()
        top = (2 * x.mean() * y.mean() + C1) * (2 * cov + C2)
        scores.append(top / ((x.mean() ** 2 + y.mean() ** 2 + C1) * (x.var() + y.var() + C2)))
    assert ssim(IMAGE, other, mask) == pytest.approx(np.mean(scores))


def test_only_the_mask_counts_for_psnr() -> None:
    """A difference of 5 everywhere in it, and anything outside."""
    other = IMAGE // 2
    mask = np.zeros_like(EVERYWHERE)
    mask[4:9, 4:9] = True
    other[mask] = np.where(IMAGE[mask] > 100, IMAGE[mask] - 5, IMAGE[mask] + 5)
    assert psnr(IMAGE, other, mask) == pytest.approx(20 * math.log10(255 / 5))
