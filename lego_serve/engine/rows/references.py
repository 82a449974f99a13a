"""Reference images of lanes: rows that all of a lane's rows attend to, beside its own, in every step.

A reference attends to itself alone, has no text and stands at time 0, so its keys and values depend on nothing of the
lane but its adapters and, where the model embeds that, its guidance.  They are computed once for each content, like a
template's, and read by all lanes that name it: a step then computes no row of it.
"""

import hashlib
from dataclasses import dataclass

import torch

from lego_serve.engine.template_store import TemplateStore
from lego_serve.errors import RequestError
from lego_serve.models.ragged.activations import entry_bytes
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.ragged.conditioning import Conditioning, LatentShape, PreparedPrompt


@dataclass(frozen=True, slots=True)
class Reference:
    """An encoded image (channels, height, width), scaled; its size need not be the lane's."""

    latents: torch.Tensor


@dataclass(frozen=True, slots=True)
class LaneReference:
    """A reference made ready for all steps of a lane: on the model's device, its content's name, its place and rows.

    ``frame``: 1 for the first reference of a lane, 2 for the second.
    """

    latents: torch.Tensor
    prompt: PreparedPrompt
    key: str
    frame: int
    rows: int

    def size_bytes(self, backbone: Backbone, store: TemplateStore) -> int:
        """Return the bytes of its keys and values."""
        return entry_bytes(store.coding, backbone.attentions, self.rows, 0)


def prepare_references(references: tuple[Reference, ...], backbone: Backbone) -> tuple[LaneReference, ...]:
    """Make the references of a lane ready.  Raises RequestError for one that is not latents of this model."""
    if not references:
        return ()
    # No tokens, but the projections that a prompt has: nothing of the lane's own text enters the rows.
    nothing = backbone.prepare(Conditioning(torch.zeros(1, backbone.text_width), torch.zeros(backbone.pooled_width)))
    prompt = PreparedPrompt(nothing.tokens[:0], nothing.pooled)
    return tuple(
        LaneReference(
            latents=each.latents.to(backbone.device),
            prompt=prompt,
            key=_content_key(each.latents, frame),
            frame=frame,
            rows=_rows(each.latents, backbone.shape),
        )
        for frame, each in enumerate(references, 1)
    )


def _rows(latents: torch.Tensor, shape: LatentShape) -> int:
    patch = shape.pixels_per_token // shape.pixels_per_latent
    sides = tuple(latents.shape)
    if len(sides) != 3 or sides[0] != shape.channels or sides[1] % patch or sides[2] % patch or not latents.numel():
        message = f"A reference has latents of shape {list(sides)}; {shape.channels} channels and sides that are"
        raise RequestError(f"{message} multiples of {patch} are needed.", param="reference")
    if not bool(torch.isfinite(latents).all()):
        raise RequestError("A reference's latents are not finite numbers.", param="reference")
    return (sides[1] // patch) * (sides[2] // patch)


def _content_key(latents: torch.Tensor, frame: int) -> str:
    digest = hashlib.sha256(f"reference {frame} {tuple(latents.shape)}".encode())
    digest.update(latents.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
