"""Attention over a packed batch: each branch attends to itself alone, a group of one shape at a time.

A branch that reuses activations has a group of its own; its rows attend to the kept ones as well, and so do those of
branches with appended rows.  Nothing here crosses branches, so that a lane's bits do not depend on its batch-mates.
"""

import torch
from torch.nn import functional as F

from lego_serve.models.ragged.activations import KvAssembler
from lego_serve.models.ragged.packing import Group, Packing


def joint_attention(
    image: torch.Tensor, text: torch.Tensor, packing: Packing, attention_id: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend over image and text rows of each branch; both (rows, 3, heads, head width) to (rows, width).

    ``attention_id`` names this attention where activations are captured or reused.
    """
    packing.capture(attention_id, image, text)
    assembler = KvAssembler(attention_id)
    image_parts, text_parts = [], []
    for group in packing.groups:
        image_qkv = image[group.image_slice].unflatten(0, (group.count, group.image_rows))
        text_qkv = text[group.text_slice].unflatten(0, (group.count, group.text_rows))
        out = _attend_group(group, assembler, torch.cat([image_qkv, text_qkv], dim=1), is_image_first=True)
        image_parts.append(out[:, : group.image_rows].flatten(0, 1))
        text_parts.append(out[:, group.image_rows :].flatten(0, 1))
    return packing.rows_of(image_parts, packing.image_branch), packing.rows_of(text_parts, packing.text_branch)


def sequence_attention(joint: torch.Tensor, packing: Packing, attention_id: str = "") -> torch.Tensor:
    """Attend over each branch's text and image as one sequence: (rows, 3, heads, head width) to (rows, width)."""
    packing.capture_joint(attention_id, joint)
    assembler = KvAssembler(attention_id)
    parts = []
    for group in packing.groups:
        qkv = joint[group.joint_slice].unflatten(0, (group.count, group.joint_rows))
        parts.append(_attend_group(group, assembler, qkv, is_image_first=False).flatten(0, 1))
    return packing.rows_of(parts, packing.joint_branch)


def self_attention(image: torch.Tensor, packing: Packing, attention_id: str = "") -> torch.Tensor:
    """Attend over the image rows of each branch alone: (rows, 3, heads, head width) to (rows, width)."""
    packing.capture(attention_id, image)
    assembler = KvAssembler(attention_id)
    parts = []
    for group in packing.groups:
        qkv = image[group.image_slice].unflatten(0, (group.count, group.image_rows))
        parts.append(_attend_group(group, assembler, qkv, is_image_first=True).flatten(0, 1))
    return packing.rows_of(parts, packing.image_branch)


def _attend_group(group: Group, assembler: KvAssembler, qkv: torch.Tensor, *, is_image_first: bool) -> torch.Tensor:
    """Attend within each branch of a group: (branches, rows, 3, heads, head width) to (branches, rows, width)."""
    if group.reuse is None and not group.appended:
        return attend(qkv)
    kv = qkv[:, :, 1:]
    if group.reuse is not None:  # one branch; what it computed may be image rows alone
        cut = group.image_rows if is_image_first else kv.shape[1] - group.image_rows
        first, second = kv[0, :cut], kv[0, cut:]
        image_kv, text_kv = (first, second) if is_image_first else (second, first)
        kv = assembler.assemble(group.reuse, image_kv, text_kv)[None]
    return attend_to(qkv[:, :, 0], assembler.append(kv, group.appended))


def attend(qkv: torch.Tensor) -> torch.Tensor:
    """Softmax attention within each branch: (branches, rows, 3, heads, head width) to (branches, rows, width)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend_to(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Softmax attention of each branch's rows to others: q (branches, rows, heads, head width), kv (branches, others,
    2, heads, head width).

    Returns (branches, rows, width).
    """
    k, v = kv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2).flatten(2)
