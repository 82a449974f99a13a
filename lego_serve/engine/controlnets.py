"""The ControlNets of a lane: which are active in a step, their inputs, and what they cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lego_serve.core.addons import entry_param
from lego_serve.core.costs import StepWork
from lego_serve.errors import NodeError, RequestError
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ActiveControlNet, ControlImage, ControlNetSource


@dataclass(frozen=True, slots=True)
class ControlNetUse:
    """One ControlNet of a lane.

    ``latents`` are the image as the VAE node encodes it (the mean; channels, height, width), or its pixels in
    -1..1 for a ControlNet that reads those; ``key`` names their content.  Step i of the n that the lane runs is
    controlled where start <= i / n and (i + 1) / n <= end, as in diffusers.  ``mode`` is a union ControlNet's.
    """

    controlnet: str
    latents: torch.Tensor
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: int | None = None
    key: str = ""

    def is_active(self, span: tuple[int, int], steps: int) -> bool:
        """Whether it takes part in a step that spans these of ``steps``, from and up to; one by one without a grid."""
        first, after = span
        return self.weight != 0 and self.start <= first / steps and after / steps <= self.end


@dataclass(frozen=True, slots=True)
class ControlNetRun:
    """A ControlNet's part in a lane: in how many steps, and when its passes began and ended by the wall clock."""

    name: str
    steps_active: int
    passes: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LaneControlNet:
    """A use as its source prepared it, once for all steps.

    ``passes``: when it ran, by step, beginning and end by the wall clock.
    """

    use: ControlNetUse
    source: ControlNetSource
    image: ControlImage
    cond: PreparedPrompt
    negative: PreparedPrompt | None
    passes: dict[int, tuple[float, float]] = field(default_factory=dict)

    def step_input(self, step: int, *, guided: bool) -> ActiveControlNet:
        """Return what it brings to a step."""

        def record_pass(began_s: float, ended_s: float) -> None:
            self.passes[step] = began_s, ended_s

        negative = self.negative if guided else None
        return ActiveControlNet(self.source, self.image, self.use.weight, self.cond, negative, record_pass)

    def work(self, tokens: int, *, guided: bool) -> StepWork:
        """Return the rows and pairs of its branches, as their cost relative to the backbone's."""
        conds = [self.cond, self.negative] if guided and self.negative is not None else [self.cond]
        lengths = [tokens + int(cond.tokens.shape[0]) for cond in conds]
        share = self.source.spec.share
        return StepWork(math.ceil(share * sum(lengths)), math.ceil(share * sum(n * n for n in lengths)))


def prepare_controlnets(
    uses: tuple[ControlNetUse, ...],
    sources: Mapping[str, ControlNetSource],
    size: tuple[int, int],
    shape: LatentShape,
    cond: Conditioning,
    negative: Conditioning | None,
) -> tuple[LaneControlNet, ...]:
    """Prepare the ControlNets of a lane of so many pixels (width, height).

    Raises NodeError for one that is not here, RequestError for an image of another size.
    """
    prepared = []
    for use in uses:
        source = sources.get(use.controlnet)
        if source is None:
            raise NodeError(f"ControlNet {use.controlnet} is not on this replica.", code="no_controlnet")
        _check(use, source, size, shape)
        prepared.append(
            LaneControlNet(
                use=use,
                source=source,
                image=source.image(use.latents, use.key),
                cond=source.prepare(cond, use.mode),
                negative=None if negative is None else source.prepare(negative, use.mode),
            )
        )
    return tuple(prepared)


def _check(use: ControlNetUse, source: ControlNetSource, size: tuple[int, int], shape: LatentShape) -> None:
    width, height = size
    spec = source.spec
    needed = (spec.channels, height, width) if spec.reads_pixels else (spec.channels, *shape.of(width, height)[1:])
    actual = tuple(use.latents.shape)
    if actual != needed:
        raise RequestError(
            f"The control image of {spec.name} is of shape {list(actual)}, the image needs {list(needed)}.",
            param=entry_param("controlnet", spec.name) + ".image",
        )
    if not math.isfinite(use.weight) or not bool(torch.isfinite(use.latents).all()):
        message = f"The weight and image of {spec.name} must be finite numbers."
        raise RequestError(message, param=entry_param("controlnet", spec.name))
