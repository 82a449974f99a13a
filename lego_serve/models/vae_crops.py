"""Decoding a part of a picture: what an edit changed, with the norms' statistics of the template it changed.

A decoder's convolutions see a neighbourhood, its group norms the whole picture.  So a crop is decoded with a margin of
latent pixels around it, and with means and variances taken from the decoding of the template, which an edit of a small
part hardly moves.  The first blocks, at the latents' own size, see all latents.  What comes out is close to the
whole decoding, not equal; it depends on nothing but the latents, the template and the box.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

MARGIN = 4  # latent pixels
WORTH = 0.6  # share of the picture above which a crop with its margin saves too little


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
        """With a margin, as far as the picture goes."""
        return Box(
            max(0, self.top - by), min(height, self.bottom + by), max(0, self.left - by), min(width, self.right + by)
        )

    @property
    def area(self) -> int:
        """Its latent pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


def pays(box: Box, height: int, width: int) -> bool:
    """Whether decoding a box alone is cheaper than all of a picture's latents."""
    return box.grown(MARGIN, height, width).area <= WORTH * height * width


class CropDecoder:
    """diffusers' decoder in two parts: what sees all latents, and what may see a crop of them."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._norms = [_KeptNorm(norm) for norm in self._cropped_norms()]

    def statistics(self, latents: torch.Tensor) -> torch.Tensor:
        """The means and reciprocal deviations of all norms over a template (1, channels, height, width).

        (norms, 2, groups), fp32.
        """
        found: list[torch.Tensor] = []
        with self._using(lambda norm, x: norm.recorded(x, found)):
            self._last(self._first(latents))
        return torch.stack(found)

    def decode(self, latents: torch.Tensor, box: Box, statistics: torch.Tensor) -> torch.Tensor:
        """The decoded box of latents (1, channels, height, width), of those statistics."""
        height, width = latents.shape[-2:]
        wide = box.grown(MARGIN, height, width)
        features = self._first(latents)[..., wide.top : wide.bottom, wide.left : wide.right]
        rest = iter(statistics)
        with self._using(lambda norm, x: norm.applied(x, next(rest))):
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

    def _cropped_norms(self) -> Iterator[nn.GroupNorm]:
        for part in (*self._decoder.up_blocks, self._decoder.conv_norm_out):
            yield from (module for module in part.modules() if isinstance(module, nn.GroupNorm))

    @contextmanager
    def _using(self, forward: Any) -> Iterator[None]:
        """Let norms do something else for a while; one thread alone decodes."""
        for norm in self._norms:
            norm.module.forward = lambda x, norm=norm: forward(norm, x)
        try:
            yield
        finally:
            for norm in self._norms:
                del norm.module.forward


@dataclass(frozen=True, slots=True)
class _KeptNorm:
    """A group norm whose statistics can be read and given."""

    module: nn.GroupNorm

    def recorded(self, x: torch.Tensor, into: list[torch.Tensor]) -> torch.Tensor:
        groups = x.float().reshape(x.shape[0], self.module.num_groups, -1)
        mean, variance = groups.mean(dim=-1)[0], groups.var(dim=-1, unbiased=False)[0]
        into.append(torch.stack([mean, torch.rsqrt(variance + self.module.eps)]))
        return F.group_norm(x, self.module.num_groups, self.module.weight, self.module.bias, self.module.eps)

    def applied(self, x: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
        mean, inverse = (s.repeat_interleave(x.shape[1] // self.module.num_groups) for s in statistics)
        scale = self.module.weight * inverse.to(x.dtype)
        shift = self.module.bias - mean.to(x.dtype) * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
