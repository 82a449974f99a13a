"""How alike two images are: PSNR, and SSIM (Wang et al., 2004), where a mask says."""

import math

import numpy as np

WINDOW = 7
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal to noise in decibels of 8-bit images (height, width, 3) within a mask; infinite for equal ones."""
    error = float(np.square(one[mask].astype(np.float64) - other[mask]).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Mean structural similarity of 8-bit images over the mask's pixels, windows of 7 x 7, channels averaged."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    mx, my = _mean(x), _mean(y)
    vx, vy, cov = _mean(x * x) - mx * mx, _mean(y * y) - my * my, _mean(x * y) - mx * my
    top = (2 * mx * my + C1) * (2 * cov + C2)
    score = top / ((mx * mx + my * my + C1) * (vx + vy + C2))
    return float(score.mean(axis=2)[mask].mean())


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of the window around each pixel, the image mirrored at its edges."""
    from scipy.ndimage import uniform_filter  # only the process that compares images needs it

    mean: np.ndarray = uniform_filter(values, size=(WINDOW, WINDOW, 1), mode="mirror")
    return mean
