"""Positions as rotations of q and k (Su et al., 2021), for packed rows."""

from collections.abc import Sequence
from typing import Any

import torch

from lego_serve.models.ragged.device import uploaded
from lego_serve.models.ragged.layers import Rotation
from lego_serve.models.ragged.packing import Packing


def image_rotation(rotate: Any, size: tuple[int, int], device: torch.device, frame: int = 0) -> Rotation:
    """Return the rotation of an image of so many token rows and columns; ``rotate`` is diffusers' FluxPosEmbed."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    positions = torch.stack([torch.full_like(rows, frame), rows, columns], dim=-1).flatten(0, 1)
    rotation: Rotation = rotate(uploaded(positions, device))
    return rotation


def stack_rotations(image: Sequence[Rotation], packing: Packing) -> tuple[Rotation, Rotation]:
    """Return the rotations of all image rows and all text rows, given each branch's image rotation.

    All text stands at the origin: cosine 1, sine 0.
    """
    text = []
    for branch, (cos, _) in zip(packing.branches, image, strict=True):
        ones = cos.new_ones(branch.text_rows, cos.shape[1])
        text.append((ones, torch.zeros_like(ones)))
    return _stack(image, packing, packing.image_branch), _stack(text, packing, packing.text_branch)


def join_rotations(image: Rotation, text: Rotation, packing: Packing) -> Rotation:
    """Return the rotations of joint rows."""
    return packing.join(image[0], text[0]), packing.join(image[1], text[1])


def _stack(parts: Sequence[Rotation], packing: Packing, row_branch: torch.Tensor) -> Rotation:
    cos = packing.rows_of([cos for cos, _ in parts], row_branch)
    return cos, packing.rows_of([sin for _, sin in parts], row_branch)
