"""The protocols of the models the engine runs: a denoising backbone and a text encoder."""

from collections.abc import Sequence
from typing import Protocol

import torch

from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.activations import AttentionShape
from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.lane_input import LaneInput, VelocityRows
from lego_serve.models.ragged.lora import LoraLayers
from lego_serve.models.ragged.pruning.router import BlockRouter


class Backbone(Protocol):
    """A denoising model: one forward pass over any lanes.

    With ``uses_cfg`` (classifier-free guidance) a guided lane is two branches; in a distilled model every lane is one,
    and with ``guidance_embeds`` the model takes the guidance as an input.  Rows are filled up to a multiple of
    ``bucket_rows``.  All linear layers share ``linear_ops``.  ``adapters`` are the layers that adapters change,
    ``attentions`` those over image rows.  ``text_rows`` is the number of tokens of any prompt where a template's
    activations include the text rows, else 0.  A lane's state lies on ``device``.  With a ``router`` lanes may compute
    fewer rows in later blocks.
    """

    shape: LatentShape
    text_width: int
    pooled_width: int
    uses_cfg: bool
    guidance_embeds: bool
    bucket_rows: int
    device: torch.device
    linear_ops: LinearOps
    adapters: LoraLayers
    attentions: tuple[AttentionShape, ...]
    text_rows: int
    router: BlockRouter | None

    def prepare(self, cond: Conditioning) -> PreparedPrompt:
        """Compute what is the same at every step for a conditioning."""
        ...

    def velocity(self, lanes: Sequence[LaneInput]) -> list[torch.Tensor]:
        """Return the guided velocity of each lane, fp32, shaped like its latents."""
        ...

    def velocity_rows(self, lanes: Sequence[LaneInput]) -> list[VelocityRows]:
        """Return the same as the rows that were computed."""
        ...


class TextEncoder(Protocol):
    """Encodes prompts, each independently of the others in its batch; ``adapters``: the layers they change."""

    max_batch: int
    adapters: LoraLayers

    def count(self, prompt: str) -> int:
        """Return how many tokens a prompt has.  Raises RequestError when the model cannot read all of it."""
        ...

    def encode(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts, ``max_batch`` at a time, with the parts of adapters that are for text encoders."""
        ...

    def encode_batch(self, prompts: Sequence[str], adapters: Uses = ()) -> list[Conditioning]:
        """Encode prompts in one pass."""
        ...
