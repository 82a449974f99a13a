"""What one lane brings to a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.activations import Activations, Reuse
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ActiveControlNet


@dataclass(frozen=True, slots=True)
class LaneInput:
    """What one lane brings to a step: latents (channels, height, width), time in 0..1, guidance, prompts.

    ``negative`` is None where the step is not guided; ``controls`` are the ControlNets active in it and
    ``adapters`` the adapters, each with its scale.  With ``reuse`` only some rows of the image are computed;
    ``capture`` is filled with what this lane, of one branch, leaves for those of others.
    """

    latents: torch.Tensor
    time: float
    guidance: float
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    controls: tuple[ActiveControlNet, ...] = ()
    adapters: Uses = ()
    reuse: Reuse | None = None
    capture: Activations | None = None

    def rows(self, of: int) -> int:
        """How many of its image's ``of`` rows are computed."""
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
