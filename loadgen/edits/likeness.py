"""How alike two images are where a mask says: PSNR, and SSIM (Wang et al., 2004)."""

import math

import numpy as np
from scipy.ndimage import uniform_filter

WINDOW = 7
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal to noise in decibels of images (height, width, 3) within a mask; infinite for equal ones."""
    error = float(np.square(one.astype(float) - other.astype(float))[mask].mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Mean structural similarity over the mask's pixels, windows of 7 x 7, channels averaged."""
    x, y = one.astype(float), other.astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        smooth: np.ndarray = uniform_filter(values, size=(WINDOW, WINDOW, 1), mode="mirror")
        return smooth

    mean_x, mean_y = mean(x), mean(y)
    spread_x, spread_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    shared = mean(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + C1) * (2 * shared + C2)
    score = top / ((mean_x**2 + mean_y**2 + C1) * (spread_x + spread_y + C2))
    return float(score[mask].mean())
