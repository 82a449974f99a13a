"""What a model node is to the engine: two small protocols."""

from collections.abc import Sequence
from typing import Protocol

import torch

from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.activations import AttentionShape
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.ragged.lora import LoraLayers


class Backbone(Protocol):
    """A denoising model: one forward pass over any lanes.

    With ``uses_cfg`` guidance a guided lane is two branches; of a distilled model every lane is one, and
    some are told the guidance.  ``bucket_rows``: rows are filled up to a multiple.  ``adapters`` are the layers
    that adapters change, ``attentions`` those over image rows.  ``text_rows``: the tokens of any prompt, where a
    template's entries keep those rows too; 0 where they do not.  What is kept of a lane lies on its ``device``.
    """

    shape: LatentShape
    text_width: int
    pooled_width: int
    uses_cfg: bool
    guidance_embeds: bool
    bucket_rows: int
    device: torch.device
    adapters: LoraLayers
    attentions: tuple[AttentionShape, ...]
    text_rows: int

    def prepare(self, cond: Conditioning) -> PreparedPrompt:
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

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time, with what of adapters is for text encoders."""
        ...

    def encode_batch(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """The same in one pass."""
        ...
