"""What a foreign request asks for, whatever protocol it came in: one value that our requests are made of."""

from dataclasses import dataclass
from typing import Literal

SEEDS = 2**32  # our seeds are below; theirs go to 2^64 and are taken modulo this
MAX_IMAGES = 10
MAX_STEPS = 200
MAX_GUIDANCE = 100.0
MAX_SCALE = 10.0
MAX_FEATHER = 64


class Refused(Exception):
    """A foreign request cannot be served; ``field`` is the caller's own name for what is wrong."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image the caller means: the name of one it uploaded, or the base64 of a file."""

    source: Literal["name", "base64"]
    value: str


@dataclass(frozen=True, slots=True)
class MaskUse:
    """Which part of an image changes: where a channel of the image is high, or where it is low.

    The channel ``grey`` is the brightness, or the alpha of a image that is transparent anywhere.  What is new fades
    into the old over ``feather`` pixels, outside of the part grown by ``dilation`` pixels.
    """

    image: InputImage
    channel: Literal["alpha", "red", "green", "blue", "grey"] = "grey"
    edits_high: bool = True
    dilation: int = 0
    feather: int = 0

    def edits(self, value: int) -> bool:
        """Whether a pixel whose channel has this value (0 to 255) changes."""
        return (value > 127) is self.edits_high


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter by the caller's name, with its scale."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ControlNet:
    """A ControlNet by the caller's name: its image, its weight, and the part of the steps it is at work in."""

    name: str
    image: InputImage
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class SavedAs:
    """An output of a ComfyUI workflow: the id of the node that saves, the prefix of its files, and their folder."""

    node: str
    prefix: str = "ComfyUI"
    folder: Literal["output", "temp"] = "output"


@dataclass(frozen=True, slots=True)
class ImageTask:
    """Text to image, image to image, or an edit of a masked part.

    None leaves a value to the model that runs, ``checkpoint`` included, and a seed to chance.  ``sampler`` is ours.
    Without ``is_guided`` guidance is an input of the model, or there is none: it takes no negative prompt.
    ``outputs`` and ``sampling_node`` are of a ComfyUI workflow.  ``replaced`` says what of the request is done
    otherwise than it asked, in the caller's words.
    """

    prompt: str
    negative_prompt: str | None = None
    checkpoint: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    is_guided: bool = True
    sampler: str | None = None
    scheduler: str | None = None
    seed: int | None = None
    n: int = 1
    strength: float | None = None
    loras: tuple[Lora, ...] = ()
    controlnets: tuple[ControlNet, ...] = ()
    image: InputImage | None = None
    mask: MaskUse | None = None
    outputs: tuple[SavedAs, ...] = ()
    sampling_node: str | None = None
    replaced: tuple[tuple[str, str], ...] = ()
    tier: str | None = None

    @property
    def images(self) -> tuple[InputImage, ...]:
        """Every image to be read, each once."""
        mask = None if self.mask is None else self.mask.image
        used = [self.image, mask, *(net.image for net in self.controlnets)]
        return tuple(dict.fromkeys(image for image in used if image is not None))


def summed(loras: tuple[Lora, ...]) -> tuple[Lora, ...]:
    """Return adapters with each name once: using one twice is using it at the sum of both scales."""
    scales: dict[str, float] = {}
    for lora in loras:
        scales[lora.name] = scales.get(lora.name, 0.0) + lora.scale
    return tuple(Lora(name, scale) for name, scale in scales.items())
