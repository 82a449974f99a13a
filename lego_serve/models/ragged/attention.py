"""Attention over a packed batch: each branch attends to itself alone, a group of one shape at a time.

A branch that reuses activations has a group of its own; its rows attend to the kept ones as well.  Nothing here crosses
branches, so that a lane's bits do not depend on its batch-mates.
"""

import torch
from torch.nn import functional as F

from lego_serve.models.ragged.activations import KvAssembler
from lego_serve.models.ragged.packing import Packing


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
        image_qkv, text_qkv = image[group.image_slice], text[group.text_slice]
        if group.reuse is not None:
            kv = assembler.assemble(group.reuse, image_qkv[:, 1:], text_qkv[:, 1:])
            out = attend_to(torch.cat([image_qkv[:, 0], text_qkv[:, 0]]), kv)[None]
        else:
            image_rows = image_qkv.unflatten(0, (group.count, group.image_rows))
            text_rows = text_qkv.unflatten(0, (group.count, group.text_rows))
            out = attend(torch.cat([image_rows, text_rows], dim=1))
        image_parts.append(out[:, : group.image_rows].flatten(0, 1))
        text_parts.append(out[:, group.image_rows :].flatten(0, 1))
    return packing.rows_of(image_parts, packing.image_branch), packing.rows_of(text_parts, packing.text_branch)


def sequence_attention(joint: torch.Tensor, packing: Packing, attention_id: str = "") -> torch.Tensor:
    """Attend over each branch's text and image as one sequence: (rows, 3, heads, head width) to (rows, width)."""
    packing.capture_joint(attention_id, joint)
    assembler = KvAssembler(attention_id)
    parts = []
    for group in packing.groups:
        qkv = joint[group.joint_slice]
        if group.reuse is not None:
            text_kv, image_kv = qkv[: group.text_rows, 1:], qkv[group.text_rows :, 1:]
            parts.append(attend_to(qkv[:, 0], assembler.assemble(group.reuse, image_kv, text_kv)))
        else:
            parts.append(attend(qkv.unflatten(0, (group.count, group.joint_rows))).flatten(0, 1))
    return packing.rows_of(parts, packing.joint_branch)


def self_attention(image: torch.Tensor, packing: Packing, attention_id: str = "") -> torch.Tensor:
    """Attend over the image rows of each branch alone: (rows, 3, heads, head width) to (rows, width)."""
    packing.capture(attention_id, image)
    assembler = KvAssembler(attention_id)
    parts = []
    for group in packing.groups:
        qkv = image[group.image_slice]
        if group.reuse is not None:
            no_text = qkv[:0, 1:]
            parts.append(attend_to(qkv[:, 0], assembler.assemble(group.reuse, qkv[:, 1:], no_text)))
        else:
            parts.append(attend(qkv.unflatten(0, (group.count, group.image_rows))).flatten(0, 1))
    return packing.rows_of(parts, packing.image_branch)


def attend(qkv: torch.Tensor) -> torch.Tensor:
    """Softmax attention within each branch: (branches, rows, 3, heads, head width) to (branches, rows, width)."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend_to(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    """Softmax attention of one branch's rows to others: q (rows, heads, head width), kv (others, 2, heads, head width).

    Returns (rows, width).
    """
    k, v = kv.permute(1, 2, 0, 3)
    return F.scaled_dot_product_attention(q.transpose(0, 1)[None], k[None], v[None])[0].transpose(0, 1).flatten(1)
