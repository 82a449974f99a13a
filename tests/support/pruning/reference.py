"""Rows per block the plain way: diffusers' own blocks over whole images, with masks, one branch after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lego_serve.models.families.flux import pack_latents
from lego_serve.models.ragged.pruning.router import BlockRouter
from tests.support.builders import RawLane

Branch = list[torch.Tensor]  # image rows, text rows, embedding
Step = Callable[[int, Branch, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def score(router: BlockRouter, block: int, row: torch.Tensor, embedded: torch.Tensor) -> float:
    """The formula, for one row."""
    one = router.scorers[block - 1]
    normed = (row - row.mean()) / (row.var(correction=0) + 1e-6).sqrt()
    hidden = one.row @ normed + one.cond @ embedded + one.bias
    return float(one.out[0] @ (hidden * torch.sigmoid(hidden)))


def chosen(router: BlockRouter, block: int, branches: Sequence[Branch], count: int) -> torch.Tensor:
    """A mask of the rows with the highest scores; a row's is the higher of its branches'."""
    rows = len(branches[0][0])
    best = [
        max(score(router, block, image[row], embedded[0]) for image, _, embedded in branches) for row in range(rows)
    ]
    order = sorted(range(rows), key=lambda row: (-best[row], row))
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def through(router: BlockRouter, branches: Sequence[Branch], block_rows: Sequence[int], step: Step) -> None:
    """Run the blocks; a row that is not chosen is no key, and keeps its value."""
    for block, count in enumerate(block_rows):
        mask = torch.ones(len(branches[0][0]), dtype=torch.bool) if block == 0 else None
        mask = chosen(router, block, branches, count) if mask is None else mask
        for branch in branches:
            image, text = step(block, branch, mask)
            branch[0], branch[1] = torch.where(mask[:, None], image, branch[0]), text


def keys_masked(mask: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Attention whose keys are those of the mask; image rows come first, and what follows them is text."""
    attention = F.scaled_dot_product_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
        keys = F.pad(mask, (0, k.shape[-2] - len(mask)), value=True)
        return attention(q, k, v, attn_mask=keys[None].expand(q.shape[-2], -1), **more)

    return attend


def sd3(transformer: Any, router: BlockRouter, lane: RawLane, block_rows: Sequence[int]) -> torch.Tensor:
    """The guided velocity, as rows of tokens with channels first."""
    prompts = [lane.negative, lane.cond] if lane.is_guided else [lane.cond]
    time = torch.tensor([lane.time * 1000])
    embeddings = [transformer.time_text_embed(time, prompt.pooled[None]) for prompt in prompts]
    branches: list[Branch] = [
        [transformer.pos_embed(lane.latents[None])[0], transformer.context_embedder(prompt.tokens[None])[0], each]
        for prompt, each in zip(prompts, map(F.silu, embeddings), strict=True)
    ]

    def step(block: int, branch: Branch, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = next(e for e, b in zip(embeddings, branches, strict=True) if b is branch)
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(F, "scaled_dot_product_attention", keys_masked(mask))
            text, image = transformer.transformer_blocks[block](
                hidden_states=branch[0][None], encoder_hidden_states=branch[1][None], temb=embedding
            )
        return image[0], branch[1] if text is None else text[0]

    through(router, branches, block_rows, step)
    outs = [
        transformer.proj_out(transformer.norm_out(branch[0][None], embedding))[0]
        for branch, embedding in zip(branches, embeddings, strict=True)
    ]
    guided = outs[-1] if len(outs) == 1 else outs[0] + lane.guidance * (outs[1] - outs[0])
    return guided.unflatten(1, (4, -1)).transpose(1, 2).flatten(1)  # channels come last in what SD3 puts out


def flux(transformer: Any, router: BlockRouter, lane: RawLane, block_rows: Sequence[int]) -> torch.Tensor:
    """The velocity, as rows of tokens with channels first."""
    h, w = lane.latents.shape[1] // 2, lane.latents.shape[2] // 2
    time, guidance = torch.tensor([lane.time * 1000]), torch.tensor([lane.guidance * 1000])
    has_guidance = transformer.config.guidance_embeds
    numbers = (time, guidance) if has_guidance else (time,)
    embedding = transformer.time_text_embed(*numbers, lane.cond.pooled[None])
    image = transformer.x_embedder(pack_latents(lane.latents, (h, w)))
    branch: Branch = [image, transformer.context_embedder(lane.cond.tokens), F.silu(embedding)]
    places = torch.stack([torch.zeros(h * w), torch.arange(h * w) // w, torch.arange(h * w) % w], dim=1)
    rotation = transformer.pos_embed(torch.cat([torch.zeros(len(branch[1]), 3), places]))
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def step(block: int, branch: Branch, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([torch.ones(len(branch[1]), dtype=torch.bool), mask])
        text, image = blocks[block](
            hidden_states=branch[0][None],
            encoder_hidden_states=branch[1][None],
            temb=embedding,
            image_rotary_emb=rotation,
            joint_attention_kwargs={"attention_mask": keys[None].expand(len(keys), -1)},
        )
        return image[0], text[0]

    through(router, [branch], block_rows, step)
    out: torch.Tensor = transformer.proj_out(transformer.norm_out(branch[0][None], embedding))[0]
    return out
