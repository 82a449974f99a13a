"""Edits of images where a mask says, as values: asked for, and encoded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from lego_serve.core.editing.reuse import Quality

TEMPLATE_SEED = 0x1E60  # of the noise outside masks: one for all templates, so that equal images are one template


@dataclass(frozen=True, slots=True)
class EditInput:
    """What a request changes: 8-bit pixels (height, width, 3), and how much of each pixel is new.

    ``weight`` (height, width) of 8 bits is 0 where the image stays as it is, 255 where all of it is new, and
    between the two where one fades into the other.  ``image`` names the pixels and whose they are; ``pin`` is that of
    a template whose activations are to stay.  ``is_described``: the request says in words what the image shows.
    """

    pixels: object
    weight: object
    quality: Quality = Quality.HIGH
    image: str = ""
    pin: str = ""
    is_described: bool = False


@dataclass(frozen=True, slots=True)
class EditLatents:
    """The same encoded: latents (channels, height, width) and which of their pixels (height, width) change.

    ``key`` names the template; ``active_ratio`` is the part of the image's tokens a step computes, 1 where it
    computes all of them; ``is_described`` as in ``EditInput``.
    """

    latents: object
    mask: object
    quality: Quality
    key: str = ""
    active_ratio: float = 1.0
    seed: int = TEMPLATE_SEED
    image: str = ""
    pin: str = ""
    is_described: bool = False


def image_key(tenant: str, shape: tuple[int, ...], pixels: bytes) -> str:
    """The name of a tenant's image by its content; the same image of another tenant has another."""
    digest = hashlib.sha256(f"{tenant} {shape} ".encode())
    digest.update(pixels)
    return digest.hexdigest()[:32]


def is_described(inputs: Mapping[str, object]) -> bool:
    """Whether values of a workflow's inputs say what the image of an edit shows."""
    said = inputs.get("caption")
    return isinstance(said, str) and bool(said.strip())
