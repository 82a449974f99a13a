"""The kernel of scatter_rows: latents are read once and the three results written once, all channels of a few pixels a
program.

Where a pixel's token stands among the active ones, which ascend, is found by halving: no table of places is made first.
"""

import torch
import triton
import triton.language as tl

from lego_kernels.active_rows import Blend, Stepped, difference
from lego_kernels.launching import block_of, device_of, warps_of

TILE = 1024  # values a program: 16 channels of 64 pixels


@triton.jit
def _places(
    active: tl.tensor, tokens: tl.tensor, inside: tl.tensor, count: tl.tensor, halvings: tl.constexpr
) -> tl.tensor:
    """Return the number of active tokens before each token, which is its place if it is active."""
    low = tl.zeros_like(tokens)
    high = low + count
    for _ in range(halvings):
        is_open = inside & (low < high)
        middle = (low + high) // 2
        is_after = tl.load(active + middle, mask=is_open, other=0) < tokens
        low = tl.where(is_open & is_after, middle + 1, low)
        high = tl.where(is_open & (is_after == 0), middle, high)
    return low


@triton.jit
def _kernel(
    latents: tl.tensor, velocity: tl.tensor, active: tl.tensor, kept: tl.tensor, mask: tl.tensor, image: tl.tensor,
    noise: tl.tensor, stepped_out: tl.tensor, predicted_out: tl.tensor, velocity_out: tl.tensor, count: tl.tensor,
    channels: tl.tensor, height: tl.tensor, width: tl.tensor, sigma: tl.tensor, next_sigma: tl.tensor, dt: tl.tensor,
    patch: tl.constexpr, channels_last: tl.constexpr, halvings: tl.constexpr, block_channels: tl.constexpr,
    block: tl.constexpr,
) -> None:  # fmt: skip
    pixels = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, block_channels)[:, None]
    is_pixel = pixels < height * width
    inside = (channel < channels) & is_pixel[None, :]
    line, place = pixels // width, pixels % width
    tokens = line // patch * (width // patch) + place // patch
    part = (line % patch * patch + place % patch)[None, :]
    # An argument that is None leaves its branch out of the compiled kernel.
    is_active, rows = is_pixel, tokens
    if active is not None:
        rows = _places(active, tokens, is_pixel, count, halvings)
        is_active = is_pixel & (rows < count)
        is_active = is_active & (tl.load(active + rows, mask=is_active, other=-1) == tokens)
    start = rows[None, :] * (channels * patch * patch)
    source = start + (part * channels + channel if channels_last else channel * (patch * patch) + part)
    moves = tl.load(velocity + source, mask=inside & is_active[None, :], other=0.0).to(tl.float32)
    pixel = channel * (height * width) + pixels[None, :]
    if kept is not None:
        others = tl.load(kept + pixel, mask=inside & (is_active == 0)[None, :], other=0.0).to(tl.float32)
        moves = tl.where(is_active[None, :], moves, others)
    before = tl.load(latents + pixel, mask=inside, other=0.0).to(tl.float32)
    predicted, stepped = before - sigma * moves, before + dt * moves
    if mask is not None:
        is_masked = (tl.load(mask + pixels, mask=is_pixel, other=1) != 0)[None, :]
        outside = inside & (is_masked == 0)
        clean = tl.load(image + pixel, mask=outside, other=0.0).to(tl.float32)
        noises = tl.load(noise + pixel, mask=outside, other=0.0).to(tl.float32)
        predicted = tl.where(is_masked, predicted, clean)
        stepped = tl.where(is_masked, stepped, next_sigma * noises + (1.0 - next_sigma) * clean)
    tl.store(stepped_out + pixel, stepped, mask=inside)
    tl.store(predicted_out + pixel, predicted, mask=inside)
    tl.store(velocity_out + pixel, moves, mask=inside)


def scatter_rows_triton(
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
    """Launch the kernel on arguments that scatter_rows has checked.  Raises ValueError where channels are too many."""
    channels, height, width = latents.shape
    block_channels = block_of("latents, of so many channels,", channels)
    block = max(TILE // block_channels, 1)
    count = rows.shape[0]
    halvings = 0 if active is None else count.bit_length()
    stepped = Stepped(*(torch.empty_like(latents, memory_format=torch.contiguous_format) for _ in range(3)))
    mask, image, noise = (None, None, None) if blend is None else blend
    given = (None if each is None else each.contiguous() for each in (active, kept, mask, image, noise))
    active, kept, mask, image, noise = given
    mask = None if mask is None else mask.view(torch.uint8)
    with device_of(latents):
        _kernel[(triton.cdiv(height * width, block),)](
            latents.contiguous(), rows.contiguous(), active, kept if active is not None else None, mask, image, noise,
            *stepped, count, channels, height, width, *sigmas, difference(sigmas),
            patch, channels_last, halvings, block_channels, block, num_warps=warps_of(block_channels * block),
        )  # fmt: skip
    return stepped
