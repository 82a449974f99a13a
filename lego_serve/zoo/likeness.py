"""How alike two pictures are: PSNR, and SSIM (Wang et al., 2004), where a mask says."""

import math

import torch
from torch.nn import functional as F

WINDOW = 7
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> float:
    """Peak signal to noise in decibels of 8-bit pictures (height, width, 3) within a mask; infinite for equal ones."""
    error = (one.float() - other.float())[mask].square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean structural similarity of 8-bit pictures over the mask's pixels, windows of 7 x 7, channels averaged."""
    x, y = (picture.float().permute(2, 0, 1)[:, None] for picture in (one, other))

    def mean(v: torch.Tensor) -> torch.Tensor:
        padded = F.pad(v, (WINDOW // 2,) * 4, mode="reflect")
        return F.avg_pool2d(padded, WINDOW, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    top = (2 * mx * my + C1) * (2 * cov + C2)
    score = top / ((mx * mx + my * my + C1) * (vx + vy + C2))
    return float(score.mean(dim=(0, 1))[mask].mean())
