"""A ControlNet as a backbone sees it: its inputs, and the source of its residuals, in this process or another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lego_serve.errors import LegoError, NodeError
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt

ResidualOf = Callable[[int, int, int], int]  # (block, blocks, residuals) to the residual added after the block
OnPass = Callable[[float, float], None]  # takes when a ControlNet's pass began and ended, in seconds of the wall clock


class ControlNetFailed(NodeError):
    """A ControlNet failed; the lanes that use it in this step fail, and no others.  ``__cause__`` says why."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message, code="controlnet_failed")
        self.name = name

    @classmethod
    def of(cls, name: str, error: Exception) -> "ControlNetFailed":
        """Wrap what a ControlNet raised; only messages of our own errors are repeated."""
        reason = error.message if isinstance(error, LegoError) else f"{type(error).__name__}."
        return cls(f"ControlNet {name} failed: {reason}", name)


class ControlNetUnavailable(NodeError):
    """A ControlNet in another process cannot be reached now; lanes that use it may go on when it answers again."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message, code="controlnet_unavailable")
        self.name = name


@dataclass(frozen=True, slots=True)
class ControlNetSpec:
    """The inputs and outputs of a ControlNet.

    ``width`` of a residual row; the numbers of residuals for double blocks (all of SD3's) and single blocks;
    ``channels`` of its control latents, or of an image where it ``reads_pixels``; ``modes`` of a union
    ControlNet; with ``repeats`` residuals are added in turn rather than spread evenly.  ``share`` is what
    one row costs in this process relative to a row of the backbone: 0 where another process computes it.
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
    """One lane's use of a ControlNet in a step; ``negative`` is None where the lane is one branch.

    ``on_pass`` is called when the pass ended, from any thread, before its last residual is returned.
    """

    latents: torch.Tensor
    time: float
    guidance: float
    image: ControlImage
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    on_pass: OnPass | None = None


class Residuals(Protocol):
    """The residuals of one step that has been started."""

    def block(self, index: int) -> torch.Tensor | None:
        """Wait for residual ``index`` (rows of all branches, width); None where there is nothing to add.

        Rows lie in the order of ``packing.branches_of``.  Callers pass rising indices, unless the spec ``repeats``, and
        skip those that no block adds.  Raises whatever made the ControlNet fail.
        """
        ...


class ControlNetSource(Protocol):
    """A ControlNet in this process or another.  Only the compute thread calls it."""

    spec: ControlNetSpec

    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """Compute what is the same at every step for a conditioning (and a union ControlNet's mode)."""
        ...

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Prepare control latents (the mean of an encoded image), or pixels, once for all steps."""
        ...

    def start(self, lanes: Sequence[ControlNetLane]) -> Residuals:
        """Begin a step; return without waiting for its end.  Raises ControlNetUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class ActiveControlNet:
    """A ControlNet that is active in a lane's step: its source, and the image, weight and prompts the lane gives it."""

    source: ControlNetSource
    image: ControlImage
    weight: float
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    on_pass: OnPass | None = None


def sd3_residual(block: int, blocks: int, residuals: int) -> int:
    """Return the index of the residual that diffusers' SD3 adds after a block."""
    return int(block / (blocks / residuals))


def flux_residual(block: int, blocks: int, residuals: int) -> int:
    """Return the index of the residual that diffusers' FLUX adds after a double or single block."""
    return block // -(-blocks // residuals)


def repeated_residual(block: int, blocks: int, residuals: int) -> int:
    """Return the index of the residual that FLUX adds after a block where the ControlNet ``repeats``."""
    return block % residuals
