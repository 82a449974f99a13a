"""The inputs of one lane to a forward pass, and what the pass says of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lego_kernels import Blend, Stepped, gather_rows, scatter_rows
from lego_kernels.active_rows import place_rows
from lego_serve.models.lora.adapter import Uses
from lego_serve.models.ragged.activations import Capture, Reuse, Rows
from lego_serve.models.ragged.conditioning import PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ActiveControlNet
from lego_serve.models.ragged.packing import Packing, pack


@dataclass(frozen=True, slots=True)
class LaneInput:
    """The inputs of one lane to a step: latents (channels, height, width), time in 0..1, guidance, prompts.

    ``negative`` is None where the step is not guided; ``controls`` are the ControlNets active in it and
    ``adapters`` the adapters, each with its scale.  With ``reuse`` only some rows of the image are computed.  A lane
    may ``capture`` its activations, and those of its unconditional branch, for itself or others to reuse.  All rows of
    both branches attend to the ``appended`` ones as well.  ``frame`` is the first coordinate of the image's positions
    in a family that has three (FLUX): 0 for an image that is drawn, 1 and on for references.  ``block_rows``: how many
    of its image's rows each block computes, chosen by the model's router, where that is not all of them everywhere.
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
    block_rows: tuple[int, ...] = ()

    def active_rows(self, image_rows: int) -> int:
        """The number of its image's rows that are computed."""
        return image_rows if self.reuse is None else len(self.reuse.active)

    def select_active(self, rows: torch.Tensor) -> torch.Tensor:
        """Return those of all image rows that are computed."""
        return rows if self.reuse is None else rows[self.reuse.active.to(rows.device)]

    def latent_rows(self, patch: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Return the rows of its latents' tokens that are computed; within one, channels come first."""
        return gather_rows(self.latents.to(device), self._active(device), patch=patch, dtype=dtype)

    def velocity_rows(self, rows: torch.Tensor, patch: int, *, channels_last: bool) -> "VelocityRows":
        """Return its velocity, given the rows that were computed, on the device of its latents."""
        device = self.latents.device
        return VelocityRows(rows.to(device), self._active(device), self.latents, patch, channels_last)

    def _active(self, device: torch.device) -> torch.Tensor | None:
        return None if self.reuse is None else self.reuse.active.to(device)


@dataclass(frozen=True, slots=True)
class VelocityRows:
    """A lane's guided velocity, fp32, as rows of the tokens that were computed: the ``active``, or all where None is.

    ``latents`` are those that it is of; with ``channels_last`` a row has the channels of each of its pixels together.
    """

    rows: torch.Tensor
    active: torch.Tensor | None
    latents: torch.Tensor
    patch: int
    channels_last: bool

    def whole(self, kept: torch.Tensor | None = None) -> torch.Tensor:
        """Return the velocity shaped like the latents, ``kept`` or zeros where it was not computed."""
        return place_rows(
            self.rows, self.active, self.latents, patch=self.patch, channels_last=self.channels_last, kept=kept
        )

    def euler(self, sigmas: tuple[float, float], kept: torch.Tensor | None, blend: Blend | None) -> Stepped:
        """Return what Euler's step from one sigma to another makes of the latents, and outside a mask of an image."""
        return scatter_rows(
            self.latents,
            self.rows,
            self.active,
            patch=self.patch,
            channels_last=self.channels_last,
            sigmas=sigmas,
            kept=kept,
            blend=blend,
        )


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


def pack_lanes(
    lanes: Sequence[LaneInput],
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    *,
    uses_cfg: bool,
    bucket_rows: int,
) -> Packing:
    """Lay out a step's lanes with all that they read and fill, as ``pack`` does; ``sizes`` of images in tokens."""
    return pack(
        lanes,
        [lane.active_rows(h * w) for lane, (h, w) in zip(lanes, sizes, strict=True)],
        device,
        uses_cfg=uses_cfg,
        bucket_rows=bucket_rows,
        reuses=reuses_of(lanes),
        captures=captures_of(lanes),
        appended=appended_of(lanes),
        block_rows={index: lane.block_rows for index, lane in enumerate(lanes) if lane.block_rows},
    )
