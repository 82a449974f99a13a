"""What each kind of workflow node takes and answers; ``core.workflow.graph.KINDS`` names these classes.

Arrays are numpy's, fp32 unless said otherwise; the large ones may be references.
"""

from dataclasses import dataclass

from lego_serve.core.addons import AdapterRequest, ControlNetInput, ControlNetRequest, LoadedAdapter
from lego_serve.core.editing.edit import EditInput, EditLatents
from lego_serve.core.values import Array, NodeRequest, Tensor


@dataclass(frozen=True, slots=True)
class LoadAdaptersOutput:
    """The adapters of a request, known as far as their files' headers or the LoRA node's memory tell."""

    adapters: tuple[LoadedAdapter, ...]


@dataclass(frozen=True, slots=True)
class LoadAdaptersInput(NodeRequest[LoadAdaptersOutput]):
    """The adapters that a request names."""

    lora: tuple[AdapterRequest, ...]


@dataclass(frozen=True, slots=True)
class TextEncodeOutput:
    """A conditioning: ``tokens`` (text tokens, width) and ``pooled`` (width)."""

    tokens: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class TextEncodeInput(NodeRequest[TextEncodeOutput]):
    """A prompt, with the adapters that may change its text encoders."""

    prompt: str
    adapters: LoadAdaptersOutput | None = None


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image to start from: 8-bit pixels (height, width, 3)."""

    pixels: Array


@dataclass(frozen=True, slots=True)
class EncodeImageOutput:
    """An image's posterior: ``mean`` and ``std``, both (channels, height, width)."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True)
class EncodeImageInput(NodeRequest[EncodeImageOutput]):
    """An image of a size."""

    image: SourceImage
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class EncodeControlsOutput:
    """The encoded images of ControlNets."""

    controls: tuple[ControlNetInput, ...]


@dataclass(frozen=True, slots=True)
class EncodeControlsInput(NodeRequest[EncodeControlsOutput]):
    """The ControlNets that a request names, with their images at a size."""

    controlnet: tuple[ControlNetRequest, ...]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class EncodeEditOutput:
    """An edit with its image encoded."""

    edit: EditLatents


@dataclass(frozen=True, slots=True)
class EncodeEditInput(NodeRequest[EncodeEditOutput]):
    """An edit of an image where a mask says."""

    edit: EditInput


@dataclass(frozen=True, slots=True)
class DenoiseOutput:
    """Denoised latents (images, channels, height, width)."""

    latents: Tensor


@dataclass(frozen=True, slots=True)
class DenoiseInput(NodeRequest[DenoiseOutput]):
    """What ``n`` lanes with the seeds seed, seed + 1, ... are denoised from; fields without a value are left out.

    ``tier``: None leaves it to the model.  ``work_share``: the part of the work that it does, which only who places
    calls heeds.
    """

    cond: TextEncodeOutput
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    n: int
    negative: TextEncodeOutput | None = None
    init: EncodeImageOutput | None = None
    strength: float = 1.0
    sampler: str = "euler"
    tier: str | None = None
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    adapters: LoadAdaptersOutput | None = None
    controls: EncodeControlsOutput | None = None
    edit: EncodeEditOutput | None = None
    prime: TextEncodeOutput | None = None
    reference: EncodeImageOutput | None = None
    work_share: float = 1.0

    @property
    def loaded_adapters(self) -> tuple[LoadedAdapter, ...]:
        """Its adapters."""
        return () if self.adapters is None else self.adapters.adapters

    @property
    def controlnets(self) -> tuple[ControlNetInput, ...]:
        """Its ControlNets."""
        return () if self.controls is None else self.controls.controls


@dataclass(frozen=True, slots=True)
class DecodeOutput:
    """Images: 8-bit pixels (images, height, width, 3)."""

    pixels: Tensor


@dataclass(frozen=True, slots=True)
class DecodeInput(NodeRequest[DecodeOutput]):
    """Latents to decode."""

    latents: DenoiseOutput


@dataclass(frozen=True, slots=True)
class DecodeEditInput(NodeRequest[DecodeOutput]):
    """Latents to decode where an edit's mask says; elsewhere the edit's own pixels stay."""

    latents: DenoiseOutput
    edit: EditInput
