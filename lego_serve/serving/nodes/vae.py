"""The autoencoder's node: images to latents and back."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lego_serve.core.addons import ControlNetInput, ControlNetRequest
from lego_serve.core.editing.edit import TEMPLATE_SEED, EditInput, EditLatents
from lego_serve.core.editing.reuse import Quality, active_fraction
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.engine.calibration import best_batch
from lego_serve.engine.template_store import template_key
from lego_serve.models import previews
from lego_serve.models.controlnet.messages import content_key
from lego_serve.models.loading import load_vae
from lego_serve.models.model_files import model_folder
from lego_serve.models.registry import ModelSpec
from lego_serve.serving.caches.byte_lru import ByteLru
from lego_serve.serving.nodes.microbatch import MicroBatcher

PATCH = 2  # latent pixels a side of a token, in every family there is
TEMPLATE_BYTES = 64 * 2**20  # of encoded templates


class VaeNode:
    """Encodes images and decodes latents."""

    def __init__(self, spec: ModelSpec, max_batch: int | str) -> None:
        torch.set_num_threads(1)
        self._vae = load_vae(spec)
        sample = torch.randn(8, self._vae.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
        size = best_batch(lambda n: self._vae.decode_batch(sample[:n])) if max_batch == "auto" else int(max_batch)
        self._vae.max_batch = size
        self._batcher: MicroBatcher[NodeCall, tuple[dict[str, Any], float]] = MicroBatcher(self._compute, 1)
        self._templates = ByteLru(TEMPLATE_BYTES)
        self._latent_rgb = previews.shipped(model_folder(spec, "vae") / "vae")

    async def run(self, call: NodeCall) -> NodeResult:
        """Encode ``image`` or ControlNets' images, decode ``latents``, or say how previews are made."""
        arrived = time.monotonic()
        value, run_s = await self._batcher.run(call)
        return NodeResult(value, TaskStats(max(0.0, time.monotonic() - arrived - run_s), run_s))

    async def template(self, verb: str, name: str) -> None:
        """Forget how an image is encoded, where that is asked; nothing else is known of templates here."""
        if verb == "forget":
            await self._batcher.run(NodeCall("forget_template", {"image": name.partition(" ")[0]}))

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    def _compute(self, calls: Sequence[NodeCall]) -> list[tuple[dict[str, Any], float]]:
        torch.set_num_threads(1)
        made = []
        for call in calls:
            started = time.monotonic()
            value = self._one(call)
            made.append((value, time.monotonic() - started))
        return made

    def _one(self, call: NodeCall) -> dict[str, Any]:
        inputs: Any = call.inputs
        if call.kind == "preview_fit":
            if self._latent_rgb is None:
                self._latent_rgb = previews.fit(self._vae)
            return {"matrix": self._latent_rgb.numpy()}
        if call.kind == "decode":
            pixels = self._vae.decode(torch.from_numpy(np.array(inputs["latents"]["latents"])))
            return {"pixels": pixels.numpy()}
        if call.kind == "encode_edit":
            return {"edit": self._edit(inputs["edit"])}
        if call.kind == "decode_edit":
            return {"pixels": self._composed(inputs["latents"]["latents"], inputs["edit"])}
        if call.kind == "forget_template":
            self._templates.drop(inputs["image"])
            return {}
        if call.kind == "encode_controls":
            return {"controls": tuple(map(self._control, inputs["controlnet"]))}
        encoded = self._vae.encode(torch.from_numpy(np.array(inputs["image"]["pixels"]))[None])[0]
        return {"mean": encoded.mean.numpy(), "std": encoded.std.numpy()}

    def _control(self, ask: ControlNetRequest) -> ControlNetInput:
        """A ControlNet's image by its mean: what it is to follow has no noise in it."""
        latents = self._vae.encode(torch.from_numpy(np.array(ask.pixels))[None])[0].mean
        return ControlNetInput(ask.name, latents.numpy(), content_key(latents), ask.weight, ask.start, ask.end)

    def _edit(self, ask: EditInput) -> EditLatents:
        """An image by its mean, which its edits share, and the latent pixels that its mask touches."""
        mean = self._template(ask)["mean"]
        mask = _latent_mask(ask, *mean.shape[1:])
        height, width = mask.shape
        tokens = mask.reshape(height // PATCH, PATCH, width // PATCH, PATCH).any(axis=(1, 3))
        ratio = 1.0 if ask.quality is Quality.EXACT else active_fraction(int(tokens.sum()), tokens.size)
        key = template_key(mean, TEMPLATE_SEED, ask.image)
        return EditLatents(mean, mask, ask.quality, key, ratio, TEMPLATE_SEED, ask.image, ask.pin, ask.is_described)

    def _composed(self, latents: np.ndarray, ask: EditInput) -> np.ndarray:
        """Decoded images where the mask says, the template's own pixels elsewhere: (n, height, width, 3)."""
        made = self._decoded(torch.from_numpy(np.array(latents)), ask).astype(np.uint32)
        weight = np.asarray(ask.weight, dtype=np.uint32)[..., None]
        composed = (made * weight + np.asarray(ask.pixels, dtype=np.uint32) * (255 - weight) + 127) // 255
        return composed.astype(np.uint8)

    def _decoded(self, latents: torch.Tensor, ask: EditInput) -> np.ndarray:
        """Images of latents (n, channels, height, width), right where the mask says, all over for ``exact``."""
        if ask.quality is Quality.EXACT:
            return self._vae.decode(latents).numpy()
        mask = torch.from_numpy(_latent_mask(ask, *latents.shape[-2:]))
        return self._vae.decode_within(latents, mask, lambda: self._statistics(ask)).numpy()

    def _statistics(self, ask: EditInput) -> torch.Tensor:
        """What the decoder finds in an edit's image, from the first time on that it is asked."""
        kept = self._template(ask)
        if "statistics" not in kept:
            kept = kept | {"statistics": self._vae.statistics(torch.from_numpy(kept["mean"])).numpy()}
            self._templates.put(_content(ask), kept)
        return torch.from_numpy(kept["statistics"])

    def _template(self, ask: EditInput) -> dict[str, np.ndarray]:
        """What is kept of an edit's image: its latents, and once it was needed what the decoder finds in them."""
        kept = self._templates.get(_content(ask))
        if kept is None:
            kept = {"mean": self._vae.encode(torch.from_numpy(np.array(ask.pixels))[None])[0].mean.numpy()}
            self._templates.put(_content(ask), kept)
        return kept


def _content(ask: EditInput) -> str:
    """What an edit's image is known by."""
    pixels = np.asarray(ask.pixels)
    return ask.image or f"{pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


def _latent_mask(ask: EditInput, height: int, width: int) -> np.ndarray:
    """The latent pixels (height, width) that an edit's mask touches."""
    weight = np.asarray(ask.weight)
    blocks = weight.reshape(height, weight.shape[0] // height, width, weight.shape[1] // width)
    touched: np.ndarray = blocks.max(axis=(1, 3)) > 0
    return touched
