"""The inputs of one lane to a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.activations import Capture, Reuse, Rows
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ActiveControlNet


@dataclass(frozen=True, slots=True)
class LaneInput:
    """The inputs of one lane to a step: latents (channels, height, width), time in 0..1, guidance, prompts.

    ``negative`` is None where the step is not guided; ``controls`` are the ControlNets active in it and
    ``adapters`` the adapters, each with its scale.  With ``reuse`` only some rows of the image are computed.  A lane
    may ``capture`` its activations, and those of its unconditional branch, for itself or others to reuse.  All rows of
    both branches attend to the ``appended`` ones as well.  ``frame`` is the first coordinate of the image's positions
    in a family that has three (FLUX): 0 for an image that is drawn, 1 and on for references.
    """

    latents: torch.Tensor
    time: float
    guidance: float
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    controls: tuple[ActiveControlNet, ...] = ()
    adapters: Uses = ()
    reuse: Reuse | None = None
    capture: Capture | None = None
    capture_negative: Capture | None = None
    appended: tuple[Rows, ...] = ()
    frame: int = 0

    def active_rows(self, image_rows: int) -> int:
        """The number of its image's rows that are computed."""
        return image_rows if self.reuse is None else len(self.reuse.active)

    def select_active(self, rows: torch.Tensor) -> torch.Tensor:
        """Return those of all image rows that are computed."""
        return rows if self.reuse is None else rows[self.reuse.active.to(rows.device)]

    def scatter_active(self, rows: torch.Tensor, image_rows: int) -> torch.Tensor:
        """Return all image rows: the computed ones, and zeros for the others."""
        if self.reuse is None:
            return rows
        zeros = rows.new_zeros(image_rows, rows.shape[1])
        return zeros.index_copy_(0, self.reuse.active.to(rows.device), rows)


def reuses_of(lanes: Sequence[LaneInput]) -> dict[int, Reuse]:
    """Return the reuses of lanes by index, as ``pack`` takes them."""
    return {index: lane.reuse for index, lane in enumerate(lanes) if lane.reuse is not None}


def captures_of(lanes: Sequence[LaneInput]) -> dict[tuple[int, bool], Capture]:
    """What lanes fill, by index and whether the unconditional branch does, as ``pack`` takes it."""
    found = {(i, False): lane.capture for i, lane in enumerate(lanes) if lane.capture is not None}
    return found | {
        (i, True): lane.capture_negative for i, lane in enumerate(lanes) if lane.capture_negative is not None
    }


def appended_of(lanes: Sequence[LaneInput]) -> dict[int, tuple[Rows, ...]]:
    """The rows appended to lanes', by index, as ``pack`` takes them."""
    return {index: lane.appended for index, lane in enumerate(lanes) if lane.appended}
