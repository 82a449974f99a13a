"""Encoded prompts and images, and the shape of latents.

Latents are fp32 and in the model's own scaled space; images are 8-bit RGB.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded prompt: ``tokens`` (text tokens, width) and ``pooled`` (width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A conditioning after the backbone's own projections, which are the same at every step.

    ``tokens`` (text tokens, width) and ``pooled`` (width).  ``key`` names the content for a ControlNet in another
    process, which caches it.
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
    """A family's latent geometry: channels, pixels per latent and pixels per token along a side."""

    channels: int
    pixels_per_latent: int
    pixels_per_token: int

    def of(self, width: int, height: int) -> tuple[int, int, int]:
        """Return the latent shape (channels, height, width) of an image of so many pixels."""
        return self.channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    def tokens(self, width: int, height: int) -> int:
        """Return the number of image tokens of an image of so many pixels."""
        return (width // self.pixels_per_token) * (height // self.pixels_per_token)
