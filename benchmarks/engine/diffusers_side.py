"""The side we compare with: diffusers' transformer on a uniform batch, as its pipelines call it; eager or compiled."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.engine.models import GUIDANCE, Subject, time_of

Call = Callable[[], torch.Tensor]
BLOCKS = ("transformer_blocks", "single_transformer_blocks")
MAX_COMPILED = 64  # shapes times kinds of blocks that stay compiled


def uniform_call(subject: Subject, transformer: Any, seeds: Sequence[int], rows: int, columns: int) -> Call:
    """Return a call of the transformer on lanes of these seeds, all of one size, that gives their guided velocities."""
    make = {"sd3": _sd3_call, "flux": _flux_call}[subject.architecture.family]
    call = make(subject, transformer, seeds, rows, columns)
    return torch.inference_mode()(call)


def compiled(transformer: Any) -> Any:
    """Return a copy of the transformer with compiled blocks, over the same weights; the original stays eager.

    Blocks are compiled one by one, as diffusers advises: blocks of a kind share the result, so that it takes minutes
    less than for the whole transformer and runs nearly as fast.
    """
    torch._dynamo.config.recompile_limit = MAX_COMPILED
    twin = copy.copy(transformer)
    twin._modules = dict(transformer._modules)
    for name in BLOCKS:
        if name in twin._modules:
            blocks = [torch.compile(block, dynamic=False) for block in twin._modules[name]]
            twin._modules[name] = torch.nn.ModuleList(blocks)  # type: ignore[arg-type]
    return twin


def _texts(subject: Subject, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    conds = [subject.conditioning(seed) for seed in seeds]
    tokens, pooled = torch.stack([c.tokens for c in conds]), torch.stack([c.pooled for c in conds])
    return tokens.to(subject.dtype), pooled.to(subject.dtype)


def _sd3_call(subject: Subject, transformer: Any, seeds: Sequence[int], rows: int, columns: int) -> Call:
    negative, positive = [2 * seed + 1 for seed in seeds], [2 * seed for seed in seeds]
    tokens, pooled = _texts(subject, negative + positive)
    latents = torch.stack([subject.latents(seed, rows, columns) for seed in seeds]).to(subject.dtype)
    times = torch.tensor([time_of(seed) * 1000 for seed in [*seeds, *seeds]], device=subject.device)

    def call() -> torch.Tensor:
        out = transformer(
            hidden_states=torch.cat([latents, latents]),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=times,
            return_dict=False,
        )[0].float()
        unguided, guided = out.chunk(2)
        return unguided + GUIDANCE * (guided - unguided)

    return call


def _flux_call(subject: Subject, transformer: Any, seeds: Sequence[int], rows: int, columns: int) -> Call:
    tokens, pooled = _texts(subject, [2 * seed for seed in seeds])
    latents = torch.stack([subject.latents(seed, rows, columns) for seed in seeds]).to(subject.dtype)
    count, channels = latents.shape[:2]
    patches = latents.view(count, channels, rows, 2, columns, 2)
    packed = patches.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels * 4)
    positions = torch.zeros(rows, columns, 3)
    positions[..., 1], positions[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)[None]
    image_ids = positions.view(-1, 3).to(subject.device)
    text_ids = torch.zeros(tokens.shape[1], 3, device=subject.device)
    times = torch.tensor([time_of(seed) for seed in seeds], device=subject.device)
    guidance = torch.full((count,), GUIDANCE, device=subject.device) if transformer.config.guidance_embeds else None

    def call() -> torch.Tensor:
        out = transformer(
            hidden_states=packed,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=times,
            img_ids=image_ids,
            txt_ids=text_ids,
            guidance=guidance,
            return_dict=False,
        )[0].float()
        unpacked = out.view(count, rows, columns, channels, 2, 2)
        return unpacked.permute(0, 3, 1, 4, 2, 5).reshape(latents.shape)

    return call
