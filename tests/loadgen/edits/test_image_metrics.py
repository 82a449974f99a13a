import math

import numpy as np
import pytest

from lego_serve import image_metrics as other
from loadgen.edits.image_metrics import psnr, ssim


def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth image, the same with noise, and a mask."""
    rng = np.random.default_rng(0)
    slope = np.tile(np.linspace(0, 255, 48), (40, 1))[..., None].repeat(3, axis=2)
    noisy = np.clip(slope + rng.normal(0, 12, slope.shape), 0, 255)
    mask = np.zeros((40, 48), dtype=bool)
    mask[5:30, 8:40] = True
    return slope.astype(np.uint8), noisy.astype(np.uint8), mask


def test_they_are_what_the_judge_of_edits_computes() -> None:
    """Two implementations of one definition agree."""
    one, noisy, mask = images()
    assert ssim(one, noisy, mask) == pytest.approx(other.ssim(one, noisy, mask), abs=1e-3)
    assert psnr(one, noisy, mask) == pytest.approx(other.psnr(one, noisy, mask), abs=1e-3)


def test_equal_images_are_alike() -> None:
    """And differences outside the mask do not count."""
    one, noisy, mask = images()
    assert ssim(one, one, mask) == pytest.approx(1.0)
    assert psnr(one, np.where(mask[..., None], one, noisy), mask) == math.inf
