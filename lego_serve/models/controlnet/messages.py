"""The messages of a ControlNet's step as numpy arrays, for a ControlNet that runs in another process.

What is the same at every step (control latents, prompts) is sent once, under a key of its content.
A step's request holds the lanes' latents and those keys; its answer is one array a residual.  bf16,
which numpy does not have, travels as 16-bit integers.  Nothing here sends anything.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lego_serve.errors import NodeError
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import ControlImage, ControlNetLane, ControlNetSource
from lego_serve.models.ragged.device import fetched

DEFAULT_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class LaneMessage:
    """One lane of a step: fp32 latents (channels, height, width), and keys of what the ControlNet has cached."""

    latents: np.ndarray
    time: float
    guidance: float
    image: str
    cond: str
    negative: str | None


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """Control latents (channels, height, width), or pixels, in fp32."""

    key: str
    latents: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes of its array."""
        return int(self.latents.nbytes)


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A conditioning in fp32, and the mode a union ControlNet prepares it with."""

    key: str
    tokens: np.ndarray
    pooled: np.ndarray
    mode: int | None

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return int(self.tokens.nbytes + self.pooled.nbytes)


StepMessage = tuple[LaneMessage, ...]


def content_key(*tensors: torch.Tensor, mode: int | None = None) -> str:
    """Return a key for the content of tensors."""
    digest = hashlib.blake2b(repr((mode, [(tuple(t.shape), str(t.dtype)) for t in tensors])).encode(), digest_size=16)
    for tensor in tensors:
        digest.update(to_array(tensor).tobytes())
    return digest.hexdigest()


def image_message(latents: torch.Tensor, key: str = "") -> ImageMessage:
    """Make the message of control latents, under ``key`` or one of their content."""
    return ImageMessage(key or content_key(latents), to_array(latents.float()))


def prompt_message(cond: Conditioning, mode: int | None = None) -> PromptMessage:
    """Make the message of a conditioning, under a key of its content."""
    key = content_key(cond.tokens, cond.pooled, mode=mode)
    return PromptMessage(key, to_array(cond.tokens.float()), to_array(cond.pooled.float()), mode)


def step_message(lanes: Sequence[ControlNetLane]) -> StepMessage:
    """Make a step's request; images and prompts must have keys.

    The lanes' latents come from the backbone's device, which is waited for once.
    """
    latents = fetched([lane.latents.float() for lane in lanes])
    return tuple(
        LaneMessage(
            latents=to_array(own),
            time=lane.time,
            guidance=lane.guidance,
            image=lane.image.key,
            cond=lane.cond.key,
            negative=None if lane.negative is None else lane.negative.key,
        )
        for lane, own in zip(lanes, latents, strict=True)
    )


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array; bf16 as int16 of the same bits."""
    tensor = tensor.detach().cpu().contiguous()
    array: np.ndarray = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def to_tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return the tensor of an array that ``to_array`` made, sharing its memory where that is writeable."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor


class PromptImageCache:
    """Caches a ControlNet's prepared images and prompts, those used last, up to ``max_bytes``."""

    def __init__(self, source: ControlNetSource, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._source, self._max_bytes = source, max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[ControlImage | PreparedPrompt, int]] = OrderedDict()  # with their bytes

    def missing(self, step: StepMessage) -> set[str]:
        """Return the keys of a step that are not cached and must be sent again."""
        keys = {key for lane in step for key in (lane.image, lane.cond, lane.negative) if key is not None}
        return keys - self._entries.keys()

    def put(self, message: ImageMessage | PromptMessage, keep: Collection[str] = ()) -> None:
        """Prepare and cache an image or a prompt, evicting none of ``keep``, which the coming step needs.

        Raises RequestError for a mode the ControlNet lacks.
        """
        if message.key in self._entries:
            self._entries.move_to_end(message.key)
            return
        prepared: ControlImage | PreparedPrompt
        if isinstance(message, ImageMessage):
            prepared = self._source.image(torch.from_numpy(message.latents.copy()), message.key)
            tensors = [prepared.latents]
        else:
            cond = Conditioning(torch.from_numpy(message.tokens.copy()), torch.from_numpy(message.pooled.copy()))
            prepared = self._source.prepare(cond, message.mode)
            tensors = [prepared.tokens, prepared.pooled]
        size = sum(tensor.nbytes for tensor in tensors)
        self._entries[message.key] = prepared, size
        self._bytes += size
        for key in list(self._entries):
            if self._bytes <= self._max_bytes:
                break
            if key != message.key and key not in keep:
                self._bytes -= self._entries.pop(key)[1]

    def lanes(self, step: StepMessage) -> list[ControlNetLane]:
        """Return a step's lanes with the images and prompts of their keys.  Raises KeyError for missing keys."""
        return [
            ControlNetLane(
                latents=torch.from_numpy(lane.latents.copy()),
                time=lane.time,
                guidance=lane.guidance,
                image=self._image(lane.image),
                cond=self._prompt(lane.cond),
                negative=None if lane.negative is None else self._prompt(lane.negative),
            )
            for lane in step
        ]

    def _image(self, key: str) -> ControlImage:
        entry = self._entry(key)
        if not isinstance(entry, ControlImage):
            raise KeyError(key)
        return entry

    def _prompt(self, key: str) -> PreparedPrompt:
        entry = self._entry(key)
        if not isinstance(entry, PreparedPrompt):
            raise KeyError(key)
        return entry

    def _entry(self, key: str) -> ControlImage | PreparedPrompt:
        self._entries.move_to_end(key)
        return self._entries[key][0]


class ResidualBuffer:
    """Buffers residuals that arrive from another process, in any order, until the compute thread needs them.

    A wait ends with NodeError after ``timeout_s``.
    """

    def __init__(self, residuals: int, dtype: torch.dtype, timeout_s: float) -> None:
        self._slots: list[np.ndarray | None] = [None] * residuals
        self._dtype, self._timeout_s = dtype, timeout_s
        self._error: Exception | None = None
        self._arrival = threading.Condition()

    def put(self, index: int, residual: np.ndarray) -> None:
        """Store residual ``index``; ignore one that is there already (a call may be retried)."""
        with self._arrival:
            if self._slots[index] is None:
                self._slots[index] = residual
                self._arrival.notify_all()

    def fail(self, error: Exception) -> None:
        """End all waits with an error: no more residuals will arrive."""
        with self._arrival:
            self._error = error
            self._arrival.notify_all()

    def block(self, index: int) -> torch.Tensor:
        """Wait for residual ``index``.  Raises the error given to ``fail``, or NodeError after ``timeout_s``."""
        with self._arrival:
            self._arrival.wait_for(lambda: self._slots[index] is not None or self._error is not None, self._timeout_s)
            residual = self._slots[index]
            if residual is not None:
                return to_tensor(residual, self._dtype)
            raise self._error or NodeError("A ControlNet's residual did not come in time.", code="controlnet_late")
