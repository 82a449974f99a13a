"""Decoding a part of an image: what an edit changed, knowing what the decoder finds in the template it changed.

A decoder's convolutions see a neighbourhood, its group norms the whole image.  So a crop is decoded with a margin of
latent pixels around it, and each norm is given the sums of the whole: those of the template, kept by cells, with the
crop's own in place of the template's there.  The first blocks, at the latents' own size, see all latents, and tell how
far the edit changes what lies outside: beyond ``TOLERANCE`` the sums would not hold.  What comes out is close to the
whole decoding, not equal; it depends on nothing but the latents, the template and the box.
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
WORTH = 0.6  # share of the image above which a crop with its margin saves too little
CELLS = 32  # a side, at most, by which sums are kept
TOLERANCE = 0.2  # by how much any group's square sum outside may differ from the template's


@dataclass(frozen=True, slots=True)
class Box:
    """Latent pixels [top, bottom) x [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def around(cls, mask: torch.Tensor) -> "Box":
        """The least box that holds all of a mask (height, width) that is true somewhere."""
        rows, columns = (torch.nonzero(mask.any(dim=d)).flatten().tolist() for d in (1, 0))
        return cls(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)

    def grown(self, by: int, height: int, width: int) -> "Box":
        """With a margin, as far as the image goes."""
        return Box(
            max(0, self.top - by), min(height, self.bottom + by), max(0, self.left - by), min(width, self.right + by)
        )

    def snapped(self, to: int, height: int, width: int) -> "Box":
        """Grown to multiples of a number of latent pixels, or the image's end."""
        end = min(height, -(-self.bottom // to) * to), min(width, -(-self.right // to) * to)
        return Box(self.top // to * to, end[0], self.left // to * to, end[1])

    @property
    def area(self) -> int:
        """Its latent pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


def pays(box: Box, height: int, width: int) -> bool:
    """Whether decoding a box alone is cheaper than all of an image's latents."""
    return _wide(box, height, width).area <= WORTH * height * width


def _wide(box: Box, height: int, width: int) -> Box:
    """What is decoded for a box: its margin, and whole cells."""
    return box.grown(MARGIN, height, width).snapped(_cell(height, width), height, width)


def _cell(height: int, width: int) -> int:
    """Latent pixels a side of the cells by which sums are kept."""
    return -(-max(height, width) // CELLS)


class CropDecoder:
    """diffusers' decoder in two parts: what sees all latents, and what may see a crop of them."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        parts = (*decoder.up_blocks, decoder.conv_norm_out)
        self._norms = [m for part in parts for m in part.modules() if isinstance(m, nn.GroupNorm)]

    def statistics(self, latents: torch.Tensor) -> torch.Tensor:
        """Sums of what each norm is given of a template (1, channels, height, width), and of its squares, by cells.

        (norms, 2, groups, rows, columns), fp32.
        """
        height, width = latents.shape[-2:]
        found: list[torch.Tensor] = []

        def recorded(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
            found.append(_by_cells(x, norm.num_groups, _cell(height, width) * (x.shape[-1] // width)))
            return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

        with self._using(recorded):
            self._last(self._first(latents))
        return torch.stack(found)

    def decode(self, latents: torch.Tensor, box: Box, statistics: torch.Tensor) -> torch.Tensor | None:
        """The decoded box of latents (1, channels, height, width), of a template of those statistics.

        None where the edit changes too much outside of it.
        """
        height, width = latents.shape[-2:]
        wide, cell = _wide(box, height, width), _cell(height, width)
        outside = _outside(statistics, wide, cell)
        whole = self._first(latents)
        found = _outside(_by_cells(whole, self._norms[0].num_groups, cell)[None], wide, cell)[0]
        if bool(((found[1] - outside[0, 1]).abs() > TOLERANCE * outside[0, 1]).any()):
            return None
        share = wide.area / (height * width)
        features = whole[..., wide.top : wide.bottom, wide.left : wide.right]
        rest = iter(outside)
        with self._using(lambda norm, x: _normed(norm, x, next(rest), share)):
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
        said: torch.Tensor = self._decoder.conv_out(self._decoder.conv_act(self._decoder.conv_norm_out(features)))
        return said

    @contextmanager
    def _using(self, forward: Callable[[nn.GroupNorm, torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Let norms do something else for a while; one thread alone decodes."""
        for norm in self._norms:
            norm.forward = partial(forward, norm)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in self._norms:
                del norm.forward


def _by_cells(x: torch.Tensor, groups: int, cell: int) -> torch.Tensor:
    """Sums of (1, channels, height, width) and of its squares by group and cell: (2, groups, rows, columns)."""
    exact = x[0].float()
    both = torch.stack([exact, exact * exact])
    down, right = -both.shape[-2] % cell, -both.shape[-1] % cell
    both = F.avg_pool2d(F.pad(both, (0, right, 0, down)), cell) * cell**2
    return both.unflatten(1, (groups, -1)).sum(dim=2)


def _outside(statistics: torch.Tensor, wide: Box, cell: int) -> torch.Tensor:
    """The sums over all cells but those of a box of whole cells: (norms, 2, groups)."""
    rows, columns = slice(wide.top // cell, -(-wide.bottom // cell)), slice(wide.left // cell, -(-wide.right // cell))
    exact = statistics.double()
    return exact.sum(dim=(-2, -1)) - exact[..., rows, columns].sum(dim=(-2, -1))


def _normed(norm: nn.GroupNorm, x: torch.Tensor, outside: torch.Tensor, share: float) -> torch.Tensor:
    """A group norm of a part, ``share`` of the whole, with the sums of what is outside."""
    exact = x[0].float()  # squares in half precision would leave nothing of a small variance beside a large mean
    own = torch.stack([exact.sum(dim=(1, 2)), (exact * exact).sum(dim=(1, 2))])
    sums = own.double().unflatten(1, (norm.num_groups, -1)).sum(dim=2) + outside
    mean, square = sums / (x[0].numel() / norm.num_groups / share)
    inverse = torch.rsqrt((square - mean * mean).clamp_min(0) + norm.eps)
    channels = x.shape[1] // norm.num_groups
    scale = norm.weight * inverse.repeat_interleave(channels).to(x.dtype)
    shift = norm.bias - mean.repeat_interleave(channels).to(x.dtype) * scale
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
