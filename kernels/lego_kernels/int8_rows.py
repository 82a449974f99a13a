"""Rows in 8 bits, each with a scale of its own, for products of whole numbers."""

import torch

from lego_kernels.checks import check_float, check_matrix

LARGEST = 127  # symmetric: -128 is not used, so that a row and its negative have the same codes but for the sign
SMALLEST = 1e-12  # what stands for the largest number of a row of zeros


def int8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes and scales: ``x[row]`` is nearly ``codes[row] * scales[row]``, the scale its largest number / 127.

    Takes x (T, D), whose rows may lie apart in memory; returns codes (T, D) of int8, rounded half to even, and scales
    (T,) of float32.  Both are computed in float32 with divisions that round correctly, so that all devices give the
    same bits; they depend on that row alone.  A row with a number that is not finite has a scale that is not finite
    either, and zeros for codes, so that what is computed of it shows it.

    Raises ValueError, naming the argument and the shapes, where a rank or a dtype does not fit.
    """
    check_matrix("x", x)
    check_float("x", x)
    if x.is_cuda:
        from lego_kernels.triton_kernels.int8_rows import int8_rows_triton

        return int8_rows_triton(x)
    wide = x.float()
    scales = wide.abs().amax(dim=1).clamp_min_(SMALLEST).div_(LARGEST)
    return wide.div(scales[:, None]).round_().nan_to_num_(0.0).to(torch.int8), scales
