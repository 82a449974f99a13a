"""Decodes the part of an image that an edit changed, with statistics of the template that it edits.

A decoder's convolutions see a neighbourhood, its group norms the whole image.  So a crop is decoded with a margin of
latent pixels around it, and each norm uses the sums of the whole: those of the template, stored by cells, with the
crop's own in place of the template's there.  The first blocks, at the latents' own size, run over all latents and show
how far the edit changes what lies outside: beyond ``TOLERANCE`` the sums would not hold.  The result is close to that
of decoding the whole, not equal; it depends on nothing but the latents, the template and the box.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

MARGIN = 2  # latent pixels
MAX_SHARE = 0.6  # share of the image above which a crop with its margin saves too little
CELLS = 32  # at most, a side, by which sums are stored
TOLERANCE = 0.2  # by how much any group's square sum outside may differ from the template's


@dataclass(frozen=True, slots=True)
class Box:
    """A box of latent pixels: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, mask: torch.Tensor) -> "Box":
        """Return the smallest box around a mask (height, width) that is true somewhere."""
        rows, columns = (torch.nonzero(mask.any(dim=d)).flatten().tolist() for d in (1, 0))
        return cls(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)

    def grown(self, margin: int, height: int, width: int) -> "Box":
        """Return the box with a margin, as far as the image goes."""
        return Box(
            top=max(0, self.top - margin),
            bottom=min(height, self.bottom + margin),
            left=max(0, self.left - margin),
            right=min(width, self.right + margin),
        )

    def snapped(self, cell: int, height: int, width: int) -> "Box":
        """Return the box grown to whole cells of so many latent pixels a side, or the image's end."""
        return Box(
            top=self.top // cell * cell,
            bottom=min(height, -(-self.bottom // cell) * cell),
            left=self.left // cell * cell,
            right=min(width, -(-self.right // cell) * cell),
        )

    @property
    def area(self) -> int:
        """Number of latent pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


def pays(box: Box, height: int, width: int) -> bool:
    """Return whether decoding a box alone is cheaper than all of an image's latents."""
    return _widened(box, height, width).area <= MAX_SHARE * height * width


def _widened(box: Box, height: int, width: int) -> Box:
    """Return what is decoded for a box: it with its margin, in whole cells."""
    return box.grown(MARGIN, height, width).snapped(_cell(height, width), height, width)


def _cell(height: int, width: int) -> int:
    """Return the side, in latent pixels, of the cells by which sums are stored."""
    return -(-max(height, width) // CELLS)


class CropDecoder:
    """diffusers' decoder in two parts: the first blocks see all latents, the rest may see a crop of them."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        parts = (*decoder.up_blocks, decoder.conv_norm_out)
        self._norms = [m for part in parts for m in part.modules() if isinstance(m, nn.GroupNorm)]

    def statistics(self, latents: torch.Tensor) -> torch.Tensor:
        """Compute the sums of each norm's input, and of its squares, by cells, for a template.

        ``latents`` (1, channels, height, width) to (norms, 2, groups, rows, columns), fp32.
        """
        height, width = latents.shape[-2:]
        sums: list[torch.Tensor] = []

        def recording(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
            sums.append(_sum_by_cells(x, norm.num_groups, _cell(height, width) * (x.shape[-1] // width)))
            return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

        with self._norms_as(recording):
            self._last(self._first(latents))
        return torch.stack(sums)

    def decode(self, latents: torch.Tensor, box: Box, statistics: torch.Tensor) -> torch.Tensor | None:
        """Decode a box of latents (1, channels, height, width), given its template's statistics.

        Returns None where the edit changes too much outside of the box.
        """
        height, width = latents.shape[-2:]
        wide, cell = _widened(box, height, width), _cell(height, width)
        outside = _sum_outside(statistics, wide, cell)
        whole = self._first(latents)
        own_outside = _sum_outside(_sum_by_cells(whole, self._norms[0].num_groups, cell)[None], wide, cell)[0]
        if bool(((own_outside[1] - outside[0, 1]).abs() > TOLERANCE * outside[0, 1]).any()):
            return None
        share = wide.area / (height * width)
        features = whole[..., wide.top : wide.bottom, wide.left : wide.right]
        sums_of_norms = iter(outside)
        with self._norms_as(lambda norm, x: _norm_crop(norm, x, next(sums_of_norms), share)):
            decoded = self._last(features.contiguous(memory_format=torch.channels_last))
        scale = decoded.shape[-1] // features.shape[-1]
        top, left = (box.top - wide.top) * scale, (box.left - wide.left) * scale
        return decoded[..., top : top + (box.bottom - box.top) * scale, left : left + (box.right - box.left) * scale]

    def _first(self, latents: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._decoder.mid_block(self._decoder.conv_in(latents))
        return features

    def _last(self, features: torch.Tensor) -> torch.Tensor:
        for block in self._decoder.up_blocks:
            features = block(features)
        normed = self._decoder.conv_norm_out(features)
        decoded: torch.Tensor = self._decoder.conv_out(self._decoder.conv_act(normed))
        return decoded

    @contextmanager
    def _norms_as(self, forward: Callable[[nn.GroupNorm, torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Replace the norms' forward function within the context; only one thread decodes."""
        for norm in self._norms:
            norm.forward = partial(forward, norm)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in self._norms:
                del norm.forward


def _sum_by_cells(x: torch.Tensor, groups: int, cell: int) -> torch.Tensor:
    """Sum x (1, channels, height, width) and its squares by group and cell: (2, groups, rows, columns)."""
    exact = x[0].float()
    both = torch.stack([exact, exact * exact])
    down, right = -both.shape[-2] % cell, -both.shape[-1] % cell
    both = F.avg_pool2d(F.pad(both, (0, right, 0, down)), cell) * cell**2
    return both.unflatten(1, (groups, -1)).sum(dim=2)


def _sum_outside(statistics: torch.Tensor, wide: Box, cell: int) -> torch.Tensor:
    """Sum over all cells but those of a box of whole cells: (norms, 2, groups)."""
    rows, columns = slice(wide.top // cell, -(-wide.bottom // cell)), slice(wide.left // cell, -(-wide.right // cell))
    exact = statistics.double()
    return exact.sum(dim=(-2, -1)) - exact[..., rows, columns].sum(dim=(-2, -1))


def _norm_crop(norm: nn.GroupNorm, x: torch.Tensor, outside: torch.Tensor, share: float) -> torch.Tensor:
    """Apply a group norm to a crop, ``share`` of the whole, given the sums of what lies outside."""
    exact = x[0].float()  # squares in half precision would leave nothing of a small variance beside a large mean
    own = torch.stack([exact.sum(dim=(1, 2)), (exact * exact).sum(dim=(1, 2))])
    sums = own.double().unflatten(1, (norm.num_groups, -1)).sum(dim=2) + outside
    mean, square = sums / (x[0].numel() / norm.num_groups / share)
    inverse = torch.rsqrt((square - mean * mean).clamp_min(0) + norm.eps)
    channels = x.shape[1] // norm.num_groups
    scale = norm.weight * inverse.repeat_interleave(channels).to(x.dtype)
    shift = norm.bias - mean.repeat_interleave(channels).to(x.dtype) * scale
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
