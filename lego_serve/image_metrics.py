"""Compares two images within a mask: PSNR, and SSIM (Wang et al., 2004)."""

import math

import numpy as np

WINDOW = 7  # pixels a side
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in decibels of 8-bit images (height, width, 3); infinite for equal ones.

    Only pixels of ``mask`` (height, width) count.
    """
    squared_error = float(np.square(first[mask].astype(np.float64) - second[mask]).mean())
    return math.inf if squared_error == 0 else 10 * math.log10(255**2 / squared_error)


def ssim(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean structural similarity of 8-bit images (height, width, 3) over the pixels of a mask.

    Windows are 7 x 7 pixels, and channels are averaged.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x * mean_x
    variance_y = _window_mean(y * y) - mean_y * mean_y
    covariance = _window_mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    score = numerator / ((mean_x * mean_x + mean_y * mean_y + C1) * (variance_x + variance_y + C2))
    return float(score.mean(axis=2)[mask].mean())


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the window around each pixel, the image mirrored at its edges."""
    from scipy.ndimage import uniform_filter  # imported late: only a process that compares images needs it

    mean: np.ndarray = uniform_filter(values, size=(WINDOW, WINDOW, 1), mode="mirror")
    return mean
