"""Active rows: the tokens of an image that a step computes, taken out of latents and put back with the step.

A token is a square of ``patch`` x ``patch`` latent pixels; tokens are numbered line by line.  ``active`` (n,) of int64
are the tokens that have rows, ascending; None where all have.  An index beyond the image is the caller's fault: a CPU
raises IndexError, a GPU is not made to look.
"""

from ctypes import c_float
from typing import NamedTuple

import torch

from lego_kernels.checks import check_float, check_tensor


class Blend(NamedTuple):
    """What stands outside a mask: an image noised to the step's sigma.

    ``mask`` (height, width) of bool, true where the step counts; ``image`` and ``noise`` are shaped like the latents.
    """

    mask: torch.Tensor
    image: torch.Tensor
    noise: torch.Tensor

    def noised(self, sigma: float) -> torch.Tensor:
        """Return the image noised to a sigma."""
        return sigma * self.noise + (1.0 - sigma) * self.image


class Stepped(NamedTuple):
    """Latents after a step, the finished image that the step predicts, and the velocity of all pixels."""

    latents: torch.Tensor
    predicted: torch.Tensor
    velocity: torch.Tensor


def gather_rows(latents: torch.Tensor, active: torch.Tensor | None, *, patch: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the rows of active tokens, (n, channels * patch**2) of a dtype; within one, channels come first.

    Takes latents (channels, height, width).  Raises ValueError, naming the argument and the shapes, where a rank, size,
    dtype or device does not fit.
    """
    check_latents(latents, active, patch)
    if latents.is_cuda:
        from lego_kernels.triton_kernels.gather_rows import gather_rows_triton

        return gather_rows_triton(latents, active, patch=patch, dtype=dtype)
    rows = _rows(latents, patch)
    return (rows if active is None else rows.index_select(0, active)).to(dtype)


def place_rows(
    rows: torch.Tensor,
    active: torch.Tensor | None,
    like: torch.Tensor,
    *,
    patch: int,
    channels_last: bool,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the rows of active tokens as pixels (channels, height, width), ``kept`` or zeros in place of the others.

    Takes what scatter_rows takes.  On every device it is torch's: samplers but Euler's have no kernel.
    """
    _check_rows(rows, active, like, patch)
    channels, height, width = like.shape
    if active is not None:
        numbers = channels * patch**2
        tokens = height * width // patch**2
        others = rows.new_zeros(tokens, numbers) if kept is None else _rows(kept, patch, channels_last=channels_last)
        rows = others.index_copy(0, active, rows)
    sizes = (patch, patch, channels) if channels_last else (channels, patch, patch)
    tokens_by_line = rows.view(height // patch, width // patch, *sizes)
    order = (4, 0, 2, 1, 3) if channels_last else (2, 0, 3, 1, 4)
    return tokens_by_line.permute(*order).reshape(channels, height, width)


def scatter_rows(
    latents: torch.Tensor,
    rows: torch.Tensor,
    active: torch.Tensor | None,
    *,
    patch: int,
    channels_last: bool,
    sigmas: tuple[float, float],
    kept: torch.Tensor | None = None,
    blend: Blend | None = None,
) -> Stepped:
    """Put the velocity of active tokens back, and take Euler's step from the first sigma to the second with it.

    Takes latents (channels, height, width) and rows (n, channels * patch**2) of its dtype; with ``channels_last``
    channels come last within a row.  Tokens that are not active have the velocity ``kept``, shaped like latents, or
    none.  With a ``blend`` latents outside its mask are its image noised to the second sigma, and what is predicted
    there is the image.  Returns three new tensors.  The difference of sigmas is rounded to float32, as in diffusers.

    Raises ValueError, naming the argument and the shapes, where a rank, size, dtype or device does not fit.
    """
    _check_rows(rows, active, latents, patch)
    pixels = [] if kept is None else [("kept", kept)]
    if blend is not None:
        check_tensor("mask", blend.mask, latents.shape[1:], torch.bool, latents.device)
        pixels += [("image", blend.image), ("noise", blend.noise)]
    for name, tensor in pixels:
        check_tensor(name, tensor, latents.shape, latents.dtype, latents.device)
    if latents.is_cuda:
        from lego_kernels.triton_kernels.scatter_rows import scatter_rows_triton

        return scatter_rows_triton(
            latents, rows, active, patch=patch, channels_last=channels_last, sigmas=sigmas, kept=kept, blend=blend
        )
    velocity = place_rows(rows, active, latents, patch=patch, channels_last=channels_last, kept=kept)
    predicted = torch.sub(latents, velocity, alpha=sigmas[0])
    stepped = latents + difference(sigmas) * velocity
    if blend is not None:
        predicted = torch.where(blend.mask, predicted, blend.noised(0.0))
        stepped = torch.where(blend.mask, stepped, blend.noised(sigmas[1]))
    return Stepped(stepped, predicted, velocity)


def difference(sigmas: tuple[float, float]) -> float:
    """Return how far a step goes: the second of two float32 numbers less the first, as float32 has it."""
    return c_float(c_float(sigmas[1]).value - c_float(sigmas[0]).value).value


def check_latents(latents: torch.Tensor, active: torch.Tensor | None, patch: int) -> None:
    """Raise ValueError unless latents are (C, H, W) with sides in patches, and active is (n,) of int64."""
    if latents.ndim != 3 or not latents.numel() or latents.shape[1] % patch or latents.shape[2] % patch:
        raise ValueError(f"latents has shape {list(latents.shape)}, must be [C, H, W] with H and W in {patch}s")
    check_float("latents", latents)
    if active is not None:
        if active.ndim != 1:
            raise ValueError(f"active has shape {list(active.shape)}, must be [n]")
        check_tensor("active", active, active.shape, torch.int64, latents.device)


def _check_rows(rows: torch.Tensor, active: torch.Tensor | None, latents: torch.Tensor, patch: int) -> None:
    check_latents(latents, active, patch)
    channels, height, width = latents.shape
    count = height * width // patch**2 if active is None else active.shape[0]
    check_tensor("rows", rows, (count, channels * patch**2), latents.dtype, latents.device)


def _rows(latents: torch.Tensor, patch: int, *, channels_last: bool = False) -> torch.Tensor:
    """Return the rows of all tokens of latents."""
    channels, height, width = latents.shape
    squares = latents.reshape(channels, height // patch, patch, width // patch, patch)
    order = (1, 3, 2, 4, 0) if channels_last else (1, 3, 0, 2, 4)
    return squares.permute(*order).reshape(-1, channels * patch**2)
