"""What a model node is to the engine: two small protocols and the values they exchange.

Latents are fp32 and in the model's own scaled space; pictures are 8-bit RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from lego_serve.models.activations import Activations, AttentionShape, Reuse

if TYPE_CHECKING:
    from lego_serve.models.adapted import AdaptedLayers
    from lego_serve.models.controls import ControlInput
    from lego_serve.models.lora import Uses


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded prompt: ``tokens`` (text tokens, width) and ``pooled`` (width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conditioning as a backbone wants it at every step, its own projections done once: tokens and pooled.

    ``key`` names its content where a ControlNet elsewhere is to remember it.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    key: str = ""


@dataclass(frozen=True, slots=True)
class ImageLatents:
    """An encoded picture as a distribution: ``mean`` and ``std``, both (channels, height, width), scaled."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True, slots=True)
class LaneInput:
    """What one lane brings to a step: latents (channels, height, width), time in 0..1, guidance, prompts.

    ``negative`` is None where the step is not guided; ``controls`` are the ControlNets active in it and
    ``adapters`` the adapters, each with its scale.  With ``reuse`` only some rows of the picture are computed;
    ``capture`` is filled with what this lane, of one branch, leaves for those of others.
    """

    latents: torch.Tensor
    time: float
    guidance: float
    cond: Prepared
    negative: Prepared | None
    controls: tuple["ControlInput", ...] = ()
    adapters: "Uses" = ()
    reuse: Reuse | None = None
    capture: Activations | None = None

    def rows(self, of: int) -> int:
        """How many of its picture's ``of`` rows are computed."""
        return of if self.reuse is None else len(self.reuse.active)

    def chosen(self, rows: torch.Tensor) -> torch.Tensor:
        """Those of all rows that are computed."""
        return rows if self.reuse is None else rows[self.reuse.active.to(rows.device)]

    def placed(self, rows: torch.Tensor, of: int) -> torch.Tensor:
        """Computed rows among zeros for the others."""
        if self.reuse is None:
            return rows
        return rows.new_zeros(of, rows.shape[1]).index_copy_(0, self.reuse.active.to(rows.device), rows)


def kept_rows(lanes: Sequence[LaneInput]) -> dict[str, Any]:
    """What lanes reuse and leave behind, as ``packing.pack`` wants it."""
    reuses = {index: lane.reuse for index, lane in enumerate(lanes) if lane.reuse is not None}
    captures = {index: lane.capture for index, lane in enumerate(lanes) if lane.capture is not None}
    return {"reuses": reuses, "captures": captures}


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

    With ``classifier_free`` guidance a guided lane is two branches; of a distilled model every lane is one, and
    some are told the guidance.  ``bucket_rows``: rows are filled up to a multiple.  ``adapters`` are the layers
    that adapters change, ``attentions`` those over image rows.  ``text_rows``: the tokens of any prompt, where a
    template's entries keep those rows too; 0 where they do not.  What is kept of a lane lies on its ``device``.
    """

    shape: LatentShape
    text_width: int
    pooled_width: int
    classifier_free: bool
    is_told_guidance: bool
    bucket_rows: int
    device: torch.device
    adapters: "AdaptedLayers"
    attentions: tuple[AttentionShape, ...]
    text_rows: int

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

    def encode(self, prompts: Sequence[str], adapters: "Uses" = ()) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time, with what of adapters is for text encoders."""
        ...

    def encode_batch(self, prompts: Sequence[str], adapters: "Uses" = ()) -> list[Conditioning]:
        """The same in one pass."""
        ...
