"""Encoded prompts and images, and the shape of latents.

Latents are fp32 and in the model's own scaled space; images are 8-bit RGB.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded prompt: ``tokens`` (text tokens, width) and ``pooled`` (width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A conditioning as a backbone wants it at every step, its own projections done once: tokens and pooled.

    ``key`` names its content where a ControlNet elsewhere is to remember it.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    key: str = ""


@dataclass(frozen=True, slots=True)
class ImageLatents:
    """An encoded image as a distribution: ``mean`` and ``std``, both (channels, height, width), scaled."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True, slots=True)
class LatentShape:
    """How a family's latents relate to images: channels, pixels per latent, and per token."""

    channels: int
    pixels_per_latent: int
    pixels_per_token: int

    def of(self, width: int, height: int) -> tuple[int, int, int]:
        """The latent shape (channels, height, width) of an image."""
        return self.channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    def tokens(self, width: int, height: int) -> int:
        """Image tokens of an image."""
        return (width // self.pixels_per_token) * (height // self.pixels_per_token)
