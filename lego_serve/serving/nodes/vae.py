"""The autoencoder's node: images to latents and back."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from lego_serve.core.addons import ControlNetInput, ControlNetRequest
from lego_serve.core.editing.edit import TEMPLATE_SEED, EditInput, EditLatents
from lego_serve.core.editing.reuse import Quality, active_fraction
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.jobs.messages import NodeCall, NodeResult
from lego_serve.core.nodes.messages import (
    DecodeEditInput,
    DecodeInput,
    DecodeOutput,
    EncodeControlsInput,
    EncodeControlsOutput,
    EncodeEditInput,
    EncodeEditOutput,
    EncodeImageInput,
    EncodeImageOutput,
)
from lego_serve.core.nodes.requests import Done, FitPreview, ForgetTemplate, MemoryUse, PreviewMatrix, ReplicaLoad
from lego_serve.core.values import bytes_of
from lego_serve.engine.calibration import best_batch, stable_batch
from lego_serve.engine.template_store import template_key
from lego_serve.models import previews
from lego_serve.models.controlnet.messages import content_key
from lego_serve.models.loading import latent_patch, load_vae
from lego_serve.models.model_files import model_folder
from lego_serve.models.registry import ModelSpec
from lego_serve.models.vae import KlVae
from lego_serve.serving.caches.byte_lru import ByteLru
from lego_serve.serving.nodes.host_weights import HostWeights, device_bytes
from lego_serve.serving.nodes.microbatch import MicroBatcher, Turn
from lego_serve.serving.nodes.options import VaeOptions
from lego_serve.serving.nodes.peers import NodePeers
from lego_serve.serving.nodes.tensors import drop_weights, tensor_of, weights_bytes

TEMPLATE_BYTES = 64 * 2**20  # of encoded templates
SAMPLES, SAMPLE_SIZES = 8, ((16, 16), (8, 24))  # images to choose a batch size with, and their latents' sizes
VaeRequest: TypeAlias = (
    DecodeInput
    | DecodeEditInput
    | EncodeImageInput
    | EncodeControlsInput
    | EncodeEditInput
    | FitPreview
    | ForgetTemplate
)
VaeReply: TypeAlias = DecodeOutput | EncodeImageOutput | EncodeControlsOutput | EncodeEditOutput | PreviewMatrix | Done


@dataclass(frozen=True, slots=True)
class _EncodedTemplate:
    """An edit's image as its latent mean, and the decoder's statistics of it once computed."""

    mean: np.ndarray
    statistics: np.ndarray | None = None


class VaeNode:
    """Encodes images and decodes latents."""

    def __init__(self, spec: ModelSpec, options: VaeOptions, peers: NodePeers | None = None) -> None:
        peers = peers or NodePeers()
        torch.set_num_threads(1)
        self._vae, self._patch = peers.model(partial(load_vae, spec)), latent_patch(spec)
        size = options.max_batch
        name = f"{spec.name}.vae max_batch"
        self._vae.max_batch = peers.measurements.once(name, self._best_batch) if size == "auto" else size
        self._batcher: MicroBatcher[VaeRequest, tuple[VaeReply, float]] = MicroBatcher(self._compute, 1, peers.turns)
        self._templates: ByteLru[_EncodedTemplate] = ByteLru(TEMPLATE_BYTES)
        self._weights_bytes = weights_bytes(self._vae)
        self._latent_rgb = previews.shipped(model_folder(spec, "vae") / "vae")

    async def run(self, call: NodeCall[Any]) -> NodeResult[Any]:
        """Encode or decode images, or fit the preview matrix."""
        arrived = time.monotonic()
        assert isinstance(call.request, VaeRequest)
        # A request's bytes are in proportion to its pixels; a little is for one without.
        turn = Turn(call.tenant, (1 + bytes_of(call.request)) / call.weight)
        value, run_s = await self._batcher.run(call.request, turn)
        return NodeResult(value, TaskStats(max(0.0, time.monotonic() - arrived - run_s), run_s))

    async def forget_template(self, command: ForgetTemplate) -> int:
        """Drop an image's cached encoding; return 0, as no activations are kept here."""
        await self._batcher.run(command)
        return 0

    def load(self) -> ReplicaLoad:
        """Return what it has in hand."""
        batcher, kept = self._batcher, self._templates
        memory = (
            MemoryUse("weights", self._weights_bytes),
            MemoryUse("images", kept.bytes, kept.max_bytes, kept.evicted),
        )
        return ReplicaLoad(batcher.running, batcher.waiting, memory=memory, room=batcher.max_batch)

    async def check_health(self) -> None:
        """Raise when the replica cannot work."""

    def close(self) -> None:
        """Let go of its thread and weights; nothing is in hand.  It waits for the batch under way, on any thread."""
        self.stop()
        drop_weights(self._vae)

    def stop(self) -> int:
        """Let go of its thread likewise; return the bytes of its weights that lie on another device than the CPU."""
        self._batcher.close()
        return device_bytes(self._vae)

    def to_host(self) -> HostWeights[KlVae]:
        """Move the weights of a node that has stopped to host memory."""
        return HostWeights(self._vae)

    def _best_batch(self) -> int:
        """Return the images a pass that are decoded fastest, with the bits before rounding that each has alone."""
        draw = torch.Generator().manual_seed(0)
        runs = []
        for height, width in SAMPLE_SIZES:
            latents = torch.randn(SAMPLES, self._vae.latent_channels, height, width, generator=draw)
            runs.append(partial(self._decode_samples, latents))
        best = best_batch(runs[0], SAMPLES)
        return min(stable_batch(run, SAMPLES, 1, best) for run in runs)

    def _decode_samples(self, latents: torch.Tensor, items: Sequence[int]) -> list[np.ndarray]:
        return list(self._vae.decode_batch(latents[list(items)]).float().cpu().numpy())

    def _compute(self, requests: Sequence[VaeRequest]) -> list[tuple[VaeReply, float]]:
        torch.set_num_threads(1)
        replies = []
        for request in requests:
            started = time.monotonic()
            reply = self._reply(request)
            replies.append((reply, time.monotonic() - started))
        return replies

    def _reply(self, request: VaeRequest) -> VaeReply:
        match request:
            case DecodeInput():
                return DecodeOutput(self._vae.decode(tensor_of(request.latents.latents)).numpy())
            case DecodeEditInput():
                return DecodeOutput(self._compose(tensor_of(request.latents.latents), request.edit))
            case EncodeImageInput():
                encoded = self._vae.encode(tensor_of(request.image.pixels)[None])[0]
                return EncodeImageOutput(encoded.mean.numpy(), encoded.std.numpy())
            case EncodeControlsInput():
                return EncodeControlsOutput(tuple(map(self._control, request.controlnet)))
            case EncodeEditInput():
                return EncodeEditOutput(self._edit(request.edit))
            case FitPreview():
                if self._latent_rgb is None:
                    self._latent_rgb = previews.fit(self._vae)
                return PreviewMatrix(self._latent_rgb.numpy())
            case ForgetTemplate():
                self._templates.drop(request.image)
                return Done()

    def _control(self, request: ControlNetRequest) -> ControlNetInput:
        """Encode a ControlNet's image to its mean, without noise."""
        latents = self._vae.encode(tensor_of(request.pixels)[None])[0].mean
        return ControlNetInput(
            request.name, latents.numpy(), content_key(latents), request.weight, request.start, request.end
        )

    def _edit(self, edit: EditInput) -> EditLatents:
        """Encode an edit's image to its mean, and its mask to latent pixels."""
        mean = self._template(edit).mean
        mask = _latent_mask(edit, *mean.shape[1:])
        height, width = mask.shape
        patch = self._patch
        tokens = mask.reshape(height // patch, patch, width // patch, patch).any(axis=(1, 3))
        ratio = 1.0 if edit.quality is Quality.EXACT else active_fraction(int(tokens.sum()), tokens.size)
        key = template_key(mean, TEMPLATE_SEED, edit.image)
        return EditLatents(mean, mask, edit.quality, key, ratio, TEMPLATE_SEED, edit.image, edit.pin, edit.is_described)

    def _compose(self, latents: torch.Tensor, edit: EditInput) -> np.ndarray:
        """Decode images inside the mask, with the template's own pixels elsewhere: (n, height, width, 3)."""
        made = self._decode(latents, edit).astype(np.uint32)
        weight = np.asarray(edit.weight, dtype=np.uint32)[..., None]
        composed = (made * weight + np.asarray(edit.pixels, dtype=np.uint32) * (255 - weight) + 127) // 255
        return composed.astype(np.uint8)

    def _decode(self, latents: torch.Tensor, edit: EditInput) -> np.ndarray:
        """Decode latents (n, channels, height, width), exact inside the mask, everywhere for ``exact``."""
        if edit.quality is Quality.EXACT:
            return self._vae.decode(latents).numpy()
        mask = torch.from_numpy(_latent_mask(edit, *latents.shape[-2:]))
        return self._vae.decode_within(latents, mask, lambda: self._statistics(edit)).numpy()

    def _statistics(self, edit: EditInput) -> torch.Tensor:
        """Return the decoder's statistics of an edit's image, computed at first use."""
        template = self._template(edit)
        statistics = template.statistics
        if statistics is None:
            statistics = self._vae.statistics(torch.from_numpy(template.mean)).numpy()
            self._templates.put(_content(edit), replace(template, statistics=statistics))
        return torch.from_numpy(statistics)

    def _template(self, edit: EditInput) -> _EncodedTemplate:
        template = self._templates.get(_content(edit))
        if template is None:
            template = _EncodedTemplate(self._vae.encode(tensor_of(edit.pixels)[None])[0].mean.numpy())
            self._templates.put(_content(edit), template)
        return template


def _content(edit: EditInput) -> str:
    """Return the cache key of an edit's image."""
    pixels = np.asarray(edit.pixels)
    return edit.image or f"{pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


def _latent_mask(edit: EditInput, height: int, width: int) -> np.ndarray:
    """Return the latent pixels (height, width) that an edit's mask touches."""
    weight = np.asarray(edit.weight)
    blocks = weight.reshape(height, weight.shape[0] // height, width, weight.shape[1] // width)
    touched: np.ndarray = blocks.max(axis=(1, 3)) > 0
    return touched
