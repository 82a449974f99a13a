"""What a ControlNet is to a backbone: the values it takes, and where its residuals come from, here or elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lego_serve.errors import LegoError, NodeError
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt

ResidualOf = Callable[[int, int, int], int]  # (block, blocks, residuals) to the residual added after the block
OnPass = Callable[
    [float, float], None
]  # told when a pass of a ControlNet began and ended, in seconds of the wall clock


class ControlNetFailed(NodeError):
    """A ControlNet failed; the lanes that use it in this step fail, and no others.  Its cause says why."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message, code="controlnet_failed")
        self.name = name

    @classmethod
    def of(cls, name: str, error: Exception) -> "ControlNetFailed":
        """For what a ControlNet raised; words of our own are told on."""
        said = error.message if isinstance(error, LegoError) else f"{type(error).__name__}."
        return cls(f"ControlNet {name} failed: {said}", name)


class ControlNetUnavailable(NodeError):
    """A ControlNet elsewhere cannot be reached now; lanes that use it may go on when it answers again."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message, code="controlnet_away")
        self.name = name


@dataclass(frozen=True, slots=True)
class ControlNetSpec:
    """What a ControlNet takes and answers.

    ``width`` of a residual row; residuals for ``doubles`` (all of SD3's blocks) and ``singles``;
    ``channels`` of its control latents, or of an image where it ``reads_pixels``; ``modes`` of a union
    ControlNet; ``repeats``: residuals are added in turn rather than spread evenly.  ``share`` is what
    one row costs here relative to a row of the backbone: 0 where it is computed elsewhere.
    """

    name: str
    width: int
    doubles: int
    singles: int
    channels: int
    share: float = 0.0
    modes: int = 0
    reads_pixels: bool = False
    repeats: bool = False

    @property
    def residuals(self) -> int:
        """Residuals of a step, those for double blocks first."""
        return self.doubles + self.singles


@dataclass(frozen=True, slots=True)
class ControlImage:
    """Control latents (channels, height, width), prepared by their source, and a key that names their content."""

    latents: torch.Tensor
    key: str = ""


@dataclass(frozen=True, slots=True)
class ControlNetLane:
    """What one use of a ControlNet by one lane brings to a step; ``negative`` is None where it is one branch.

    ``on_pass`` hears of the pass, from any thread, before its last residual is handed over.
    """

    latents: torch.Tensor
    time: float
    guidance: float
    image: ControlImage
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    on_pass: OnPass | None = None


class Residuals(Protocol):
    """The residuals of one step, on their way."""

    def block(self, index: int) -> torch.Tensor | None:
        """Residual ``index`` (rows of all branches, width), waited for; None where there is nothing to add.

        Rows lie in the order of ``packing.branches_of``.  Indices are asked for in rising order, unless the form
        ``repeats``; those no block adds are never asked for.  Raises whatever made the ControlNet fail.
        """
        ...


class ControlNetSource(Protocol):
    """A ControlNet, here or elsewhere.  Called by the compute thread alone."""

    spec: ControlNetSpec

    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """What of a conditioning (and a union ControlNet's mode) is the same at every step."""
        ...

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Control latents as the VAE node encodes an image (their mean), or the pixels, made ready for all steps."""
        ...

    def start(self, lanes: Sequence[ControlNetLane]) -> Residuals:
        """Begin a step; returns without waiting for its end.  Raises ControlAway."""
        ...


@dataclass(frozen=True, slots=True)
class ActiveControlNet:
    """A ControlNet that is active in a lane's step: its source, the lane's image and prompts there, the weight."""

    source: ControlNetSource
    image: ControlImage
    weight: float
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    on_pass: OnPass | None = None


def sd3_residual(block: int, blocks: int, residuals: int) -> int:
    """The residual diffusers' SD3 adds after a block."""
    return int(block / (blocks / residuals))


def flux_residual(block: int, blocks: int, residuals: int) -> int:
    """The residual diffusers' FLUX adds after a block of a kind."""
    return block // -(-blocks // residuals)


def repeated_residual(block: int, blocks: int, residuals: int) -> int:
    """The residual FLUX adds where a ControlNet ``repeats``."""
    return block % residuals
