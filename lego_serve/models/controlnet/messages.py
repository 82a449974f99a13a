"""A ControlNet's step as numpy arrays, for a ControlNet that runs in another process.

What is the same at every step (control latents, prompts) is sent once and named by a key that tells
its content; a step's request is the lanes' latents and those keys, and its answer one array a
residual.  bf16, which numpy does not have, travels as 16-bit integers.  Nothing here sends anything.
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

DEFAULT_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class LaneMessage:
    """One lane of a step: fp32 latents (channels, height, width), and keys of what the ControlNet remembers."""

    latents: np.ndarray
    time: float
    guidance: float
    image: str
    cond: str
    negative: str | None


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """Control latents, or pixels, as a request brings them."""

    key: str
    latents: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes of its array."""
        return int(self.latents.nbytes)


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A conditioning in fp32, and the mode a union ControlNet is to read it with."""

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
    """A name for the content of tensors."""
    digest = hashlib.blake2b(repr((mode, [(tuple(t.shape), str(t.dtype)) for t in tensors])).encode(), digest_size=16)
    for tensor in tensors:
        digest.update(to_array(tensor).tobytes())
    return digest.hexdigest()


def image_message(latents: torch.Tensor, key: str = "") -> ImageMessage:
    """Control latents to be remembered under their key, or one of their content."""
    return ImageMessage(key or content_key(latents), to_array(latents.float()))


def prompt_message(cond: Conditioning, mode: int | None = None) -> PromptMessage:
    """A conditioning to be remembered under the key of its content."""
    key = content_key(cond.tokens, cond.pooled, mode=mode)
    return PromptMessage(key, to_array(cond.tokens.float()), to_array(cond.pooled.float()), mode)


def step_message(lanes: Sequence[ControlNetLane]) -> StepMessage:
    """A step's request; images and prompts must have keys."""
    return tuple(
        LaneMessage(
            to_array(lane.latents.float()), lane.time, lane.guidance, lane.image.key, lane.cond.key,
            None if lane.negative is None else lane.negative.key,
        )
        for lane in lanes
    )  # fmt: skip


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's bytes as an array."""
    tensor = tensor.detach().cpu().contiguous()
    array: np.ndarray = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def to_tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """The tensor of an array that ``to_array`` made, sharing its memory where it may be written."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor


class PromptImageCache:
    """Images and prompts a ControlNet remembers, prepared, the latest used within so many bytes."""

    def __init__(self, source: ControlNetSource, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._source, self._max_bytes = source, max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[ControlImage | PreparedPrompt, int]] = OrderedDict()

    def missing(self, step: StepMessage) -> set[str]:
        """The keys of a step that are not here and must be sent again."""
        wanted = {key for lane in step for key in (lane.image, lane.cond, lane.negative) if key is not None}
        return wanted - self._kept.keys()

    def put(self, message: ImageMessage | PromptMessage, keep: Collection[str] = ()) -> None:
        """Remember an image or a prompt, forgetting none of ``keep``: what the step needs that is to run.

        Raises RequestError for a mode the ControlNet lacks.
        """
        if message.key in self._kept:
            self._kept.move_to_end(message.key)
            return
        kept: ControlImage | PreparedPrompt
        if isinstance(message, ImageMessage):
            kept = self._source.image(torch.from_numpy(message.latents.copy()), message.key)
            numbers = [kept.latents]
        else:
            cond = Conditioning(torch.from_numpy(message.tokens.copy()), torch.from_numpy(message.pooled.copy()))
            kept = self._source.prepare(cond, message.mode)
            numbers = [kept.tokens, kept.pooled]
        size = sum(tensor.nbytes for tensor in numbers)
        self._kept[message.key] = kept, size
        self._bytes += size
        for key in list(self._kept):
            if self._bytes <= self._max_bytes:
                break
            if key != message.key and key not in keep:
                self._bytes -= self._kept.pop(key)[1]

    def lanes(self, step: StepMessage) -> list[ControlNetLane]:
        """A step as the ControlNet takes it.  KeyError for one with missing keys."""
        return [
            ControlNetLane(
                torch.from_numpy(lane.latents.copy()), lane.time, lane.guidance, self._image(lane.image),
                self._prompt(lane.cond), None if lane.negative is None else self._prompt(lane.negative),
            )
            for lane in step
        ]  # fmt: skip

    def _image(self, key: str) -> ControlImage:
        kept = self._found(key)
        if not isinstance(kept, ControlImage):
            raise KeyError(key)
        return kept

    def _prompt(self, key: str) -> PreparedPrompt:
        kept = self._found(key)
        if not isinstance(kept, PreparedPrompt):
            raise KeyError(key)
        return kept

    def _found(self, key: str) -> ControlImage | PreparedPrompt:
        self._kept.move_to_end(key)
        return self._kept[key][0]


class ResidualBuffer:
    """Residuals that arrive from elsewhere, in any order; the compute thread waits where it needs one.

    A wait ends with NodeError after ``timeout_s``.
    """

    def __init__(self, residuals: int, dtype: torch.dtype, timeout_s: float) -> None:
        self._slots: list[np.ndarray | None] = [None] * residuals
        self._dtype, self._timeout_s = dtype, timeout_s
        self._error: Exception | None = None
        self._arrival = threading.Condition()

    def put(self, index: int, residual: np.ndarray) -> None:
        """Residual ``index`` has come; one that has come before is passed over (a call may be made again)."""
        with self._arrival:
            if self._slots[index] is None:
                self._slots[index] = residual
                self._arrival.notify_all()

    def fail(self, error: Exception) -> None:
        """No more will come."""
        with self._arrival:
            self._error = error
            self._arrival.notify_all()

    def block(self, index: int) -> torch.Tensor:
        """Residual ``index``, waited for.  Raises the error it failed with, or NodeError when it takes too long."""
        with self._arrival:
            self._arrival.wait_for(lambda: self._slots[index] is not None or self._error is not None, self._timeout_s)
            found = self._slots[index]
            if found is not None:
                return to_tensor(found, self._dtype)
            raise self._error or NodeError("A ControlNet's residual did not come in time.", code="controlnet_late")
