"""PSNR and SSIM (Wang et al., 2004) of two images within a mask."""

import math

import numpy as np
from scipy.ndimage import uniform_filter

WINDOW = 7
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in decibels of images (height, width, 3); infinite for equal ones."""
    error = float(np.square(one.astype(float) - other.astype(float))[mask].mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean structural similarity over the mask's pixels, windows of 7 x 7, channels averaged."""
    x, y = one.astype(float), other.astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        smooth: np.ndarray = uniform_filter(values, size=(WINDOW, WINDOW, 1), mode="mirror")
        return smooth

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    score = numerator / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))
    return float(score[mask].mean())
