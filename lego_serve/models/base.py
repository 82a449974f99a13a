"""What a model node is to the engine: three small protocols and the values they exchange.

Latents are fp32 and in the model's own scaled space; pictures are 8-bit RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded prompt: ``tokens`` (text tokens, width) and ``pooled`` (width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conditioning as a backbone wants it at every step, its own projections done once: tokens and pooled."""

    tokens: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class ImageLatents:
    """An encoded picture as a distribution: ``mean`` and ``std``, both (channels, height, width), scaled."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True, slots=True)
class LaneInput:
    """What one lane brings to a step: latents (channels, height, width), time in 0..1, guidance, prompts.

    ``negative`` is None where the step is not guided.
    """

    latents: torch.Tensor
    time: float
    guidance: float
    cond: Prepared
    negative: Prepared | None


@dataclass(frozen=True, slots=True)
class LatentShape:
    """How a family's latents relate to pictures: channels, pixels per latent, and per token."""

    channels: int
    pixels_per_latent: int
    pixels_per_token: int

    def of(self, width: int, height: int) -> tuple[int, int, int]:
        """The latent shape (channels, height, width) of a picture."""
        return self.channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    def tokens(self, width: int, height: int) -> int:
        """Image tokens of a picture."""
        return (width // self.pixels_per_token) * (height // self.pixels_per_token)


class Backbone(Protocol):
    """A denoising model: one forward pass over any lanes.

    With ``classifier_free`` guidance a guided lane is two branches; a distilled model is told the
    guidance instead and every lane is one.  ``bucket_rows``: rows are filled up to a multiple.
    """

    shape: LatentShape
    text_width: int
    pooled_width: int
    classifier_free: bool
    bucket_rows: int

    def prepare(self, cond: Conditioning) -> Prepared:
        """What of a conditioning is the same at every step."""
        ...

    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """The guided velocity of each lane, fp32, shaped like its latents."""
        ...


class TextEncoder(Protocol):
    """Prompts to conditionings, one each, independent of their neighbours."""

    max_batch: int

    def check(self, prompt: str) -> None:
        """Raise RequestError when the model cannot read all of a prompt."""
        ...

    def encode(self, prompts: Sequence[str]) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time."""
        ...

    def encode_batch(self, prompts: Sequence[str]) -> list[Conditioning]:
        """The same in one pass."""
        ...


class Vae(Protocol):
    """Pictures to latents and back."""

    def encode(self, pixels: torch.Tensor) -> list[ImageLatents]:
        """Encode pictures (n, height, width, 3) of 8 bits."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents (n, channels, height, width) to pictures (n, height, width, 3) of 8 bits."""
        ...
