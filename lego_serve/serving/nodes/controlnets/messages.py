"""Requests of a backbone replica to a ControlNet in a deployment of its own, and their replies."""

from dataclasses import dataclass

import numpy as np

from lego_serve.core.values import NodeRequest
from lego_serve.models.controlnet.messages import ImageMessage, PromptMessage, StepMessage
from lego_serve.models.ragged.controlnet_source import ControlNetSpec


@dataclass(frozen=True, slots=True)
class ControlNetDescription:
    """A ControlNet's inputs and outputs, and the name of its dtype."""

    spec: ControlNetSpec
    dtype: str


@dataclass(frozen=True, slots=True)
class DescribeControlNet(NodeRequest[ControlNetDescription]):
    """Requests a ControlNet's description."""


@dataclass(frozen=True, slots=True)
class ControlNetStepResult:
    """A step's residuals, unless they were streamed, and beginning and end of its pass; or the missing keys."""

    residuals: tuple[np.ndarray, ...] = ()
    pass_s: tuple[float, float] | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunControlNetStep(NodeRequest[ControlNetStepResult]):
    """Requests the residuals of a step; ``content`` has prompts and images that the replica may lack."""

    step: StepMessage
    content: tuple[ImageMessage | PromptMessage, ...]
