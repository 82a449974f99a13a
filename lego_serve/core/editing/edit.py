"""Values for an edit of an image inside a mask: as requested, and encoded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from lego_serve.core.editing.reuse import Quality
from lego_serve.core.values import Array, Tensor

TEMPLATE_SEED = 0x1E60  # seeds the noise outside masks; one seed for all, so that equal images share one template


@dataclass(frozen=True, slots=True)
class EditInput:
    """A requested edit: the image's 8-bit pixels (height, width, 3), and how much of each pixel changes.

    ``weight`` (height, width), 8 bits, is 0 where the image stays, 255 where it is replaced, and between the two where
    old and new are blended.  ``image`` is the name of the tenant's image (see ``image_key``); ``pin`` is the pin of a
    template whose activations must stay in memory.  ``is_described``: the request has a caption of the image.
    """

    pixels: Array
    weight: Array
    quality: Quality = Quality.HIGH
    image: str = ""
    pin: str = ""
    is_described: bool = False


@dataclass(frozen=True, slots=True)
class EditLatents:
    """An encoded edit: latents (channels, height, width) of the image, and the mask (height, width) of those to change.

    ``key`` names the template; ``active_ratio`` is the fraction of the image's tokens that a step computes, 1 if it
    computes all.  The other fields are those of ``EditInput``.
    """

    latents: Tensor
    mask: Tensor
    quality: Quality
    key: str = ""
    active_ratio: float = 1.0
    seed: int = TEMPLATE_SEED
    image: str = ""
    pin: str = ""
    is_described: bool = False


def image_key(tenant: str, shape: tuple[int, ...], pixels: bytes) -> str:
    """Return the name of a tenant's image, a hash of tenant, shape and content: tenants share no names."""
    digest = hashlib.sha256(f"{tenant} {shape} ".encode())
    digest.update(pixels)
    return digest.hexdigest()[:32]


def is_described(inputs: Mapping[str, object]) -> bool:
    """Return whether the values of a workflow's inputs have a caption of the edited image."""
    caption = inputs.get("caption")
    return isinstance(caption, str) and bool(caption.strip())
