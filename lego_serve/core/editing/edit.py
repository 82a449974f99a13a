"""Edits of pictures where a mask says, as values: asked for, and encoded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from lego_serve.core.editing.reuse import Quality

TEMPLATE_SEED = 0x1E60  # of the noise outside masks: one for all templates, so that equal pictures are one template


@dataclass(frozen=True, slots=True)
class EditAsk:
    """What a request changes: 8-bit pixels (height, width, 3), and how much of each pixel is new.

    ``weight`` (height, width) of 8 bits is 0 where the picture stays as it is, 255 where all of it is new, and
    between the two where one fades into the other.  ``picture`` names the pixels and whose they are; ``pin`` is that of
    a template whose activations are to stay.  ``is_described``: the request says in words what the picture shows.
    """

    pixels: object
    weight: object
    quality: Quality = Quality.HIGH
    picture: str = ""
    pin: str = ""
    is_described: bool = False


@dataclass(frozen=True, slots=True)
class EditLatents:
    """The same encoded: latents (channels, height, width) and which of their pixels (height, width) change.

    ``key`` names the template; ``active_ratio`` is the part of the picture's tokens a step computes, 1 where it
    computes all of them; ``is_described`` as in ``EditAsk``.
    """

    latents: object
    mask: object
    quality: Quality
    key: str = ""
    active_ratio: float = 1.0
    seed: int = TEMPLATE_SEED
    picture: str = ""
    pin: str = ""
    is_described: bool = False


def picture_key(tenant: str, shape: tuple[int, ...], pixels: bytes) -> str:
    """The name of a tenant's picture by its content; the same picture of another tenant has another."""
    digest = hashlib.sha256(f"{tenant} {shape} ".encode())
    digest.update(pixels)
    return digest.hexdigest()[:32]


def is_described(inputs: Mapping[str, object]) -> bool:
    """Whether values of a workflow's inputs say what the picture of an edit shows."""
    said = inputs.get("caption")
    return isinstance(said, str) and bool(said.strip())
