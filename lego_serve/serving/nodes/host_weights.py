"""Keeps a model's weights in host memory while another model has the device.

All that lies on the device goes, as raw bytes and storage by storage, so that what shares memory there does again
afterwards, in the order of its numbers: what comes back has the same bits, and nothing is read or converted anew.  For
CUDA the host's memory is pinned, which the device copies from and to without another copy in between.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from lego_serve.models.ragged.device import wait_for
from lego_serve.serving.nodes.tensors import clear_caches, tensors_in

ModelT = TypeVar("ModelT")
# Pinned memory comes in powers of two, and more is taken for another size: only the last piece is ever larger than it
# has to be.
PIECE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in its storage, counted in its numbers."""

    tensor: torch.Tensor
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass(slots=True)
class _Block:
    """A storage of a device, and the tensors in it."""

    storage: torch.UntypedStorage
    device: torch.device
    places: list[_Place] = field(default_factory=list)


def device_bytes(model: object) -> int:
    """Return the bytes that a model holds on another device than the CPU."""
    return sum(block.storage.nbytes() for block in _blocks(model))


class HostWeights(Generic[ModelT]):
    """A model whose weights are in host memory; it computes again once they are ``restored``."""

    def __init__(self, model: ModelT) -> None:
        """Move all of a model's weights off its device, which nobody computes with meanwhile."""
        clear_caches(model)
        self._model, blocks = model, _blocks(model)
        self._blocks = [(block.device, block.storage.nbytes(), block.places) for block in blocks]
        self.size_bytes = sum(size for _, size, _ in self._blocks)
        is_pinned = any(block.device.type == "cuda" for block in blocks)
        starts = range(0, self.size_bytes, PIECE_BYTES)
        sizes = [min(PIECE_BYTES, self.size_bytes - start) for start in starts]
        self._pieces = [torch.empty(size, dtype=torch.uint8, pin_memory=is_pinned) for size in sizes]
        at = 0
        for block in blocks:
            source = _bytes_of(block.storage, block.device)
            for start, piece in self._pieces_at(at, len(source)):
                piece.copy_(source[start : start + len(piece)], non_blocking=True)
            at += len(source)
        for device in {block.device for block in blocks}:
            wait_for(device)
        for block in blocks:
            for place in block.places:
                place.tensor.data = torch.empty(0, dtype=place.tensor.dtype, device=block.device)

    def restored(self) -> ModelT:
        """Move the weights back to where they were, and let go of the host's memory; return the model."""
        at, storages = 0, []
        for device, size, _ in self._blocks:
            target = torch.empty(size, dtype=torch.uint8, device=device)
            for start, piece in self._pieces_at(at, size):
                target[start : start + len(piece)].copy_(piece, non_blocking=True)
            at += size
            storages.append(target.untyped_storage())
        for device in {device for device, _, _ in self._blocks}:
            wait_for(device)
        self.drop()
        for storage, (device, _, places) in zip(storages, self._blocks, strict=True):
            for place in places:
                empty = torch.empty(0, dtype=place.tensor.dtype, device=device)
                place.tensor.data = empty.set_(storage, place.offset, place.shape, place.stride)  # type: ignore[call-overload]
        return self._model

    def drop(self) -> None:
        """Let go of the host's memory."""
        self._pieces = []

    def _pieces_at(self, at: int, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the memory of so many bytes from a place on, in pieces, each after how many of them it begins."""
        start = 0
        while start < size:
            index, within = divmod(at + start, PIECE_BYTES)
            piece = self._pieces[index][within : within + size - start]
            yield start, piece
            start += len(piece)


def _blocks(model: object) -> list[_Block]:
    """Return the storages of other devices than the CPU that a model has tensors in."""
    blocks: dict[int, _Block] = {}
    for tensor in {id(each): each for each in tensors_in(model)}.values():
        storage = tensor.untyped_storage()
        if tensor.device.type != "cpu" and storage.nbytes():
            block = blocks.setdefault(storage.data_ptr(), _Block(storage, tensor.device))
            block.places.append(_Place(tensor, int(tensor.storage_offset()), tensor.shape, tensor.stride()))
    return list(blocks.values())


def _bytes_of(storage: torch.UntypedStorage, device: torch.device) -> torch.Tensor:
    """Return a storage's bytes as a tensor over it."""
    empty = torch.empty(0, dtype=torch.uint8, device=device)
    return empty.set_(storage, 0, (storage.nbytes(),), (1,))  # type: ignore[call-overload,no-any-return]
