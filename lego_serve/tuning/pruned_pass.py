"""A pass with rows chosen in each block that a router can learn from, beside the whole pass of the same model.

It runs diffusers' own blocks over gathered rows, as many for all images of a batch.  Choosing is not differentiable, so
the gradient goes through a soft gate (Shiva-DiT, 2026): with the soft rank r_i = 1 + sum_j sigma((s_j - s_i) / t) of a
row's score s_i, the gate is sigma((k - r_i) / (u N)).  It adds nothing to the forward pass; in the backward one a row's
gate gets the product of the loss's gradient there and of what the block would add to the row.  The paper takes the row
itself for that; here it is what the block added, or added in the whole pass where the row was not chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from lego_serve.models.model_files import load_module, model_folder
from lego_serve.models.ragged.pruning.router import BlockRouter, highest
from lego_serve.models.registry import ModelSpec

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel

RANK_TEMPERATURE, GATE_TEMPERATURE = 0.2, 0.1  # t and u
Score = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]
"""A block's score of rows (branches, rows, width), given the embeddings (branches, width): (branches, rows)."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Latents (images, channels, height, width) at one sigma; ``tokens`` and ``pooled`` are of their branches.

    Those of all unconditional branches come first, where there are any, then the conditional ones.
    """

    latents: torch.Tensor
    sigma: float
    tokens: torch.Tensor
    pooled: torch.Tensor
    guidance: float

    @property
    def branches(self) -> int:
        """The number of branches of an image."""
        return len(self.tokens) // len(self.latents)


def router_score(router: BlockRouter, noise: float = 0.0, draw: torch.Generator | None = None) -> Score:
    """Return the scores of a router, with normal noise of so much by which training tries other rows."""

    def score(block: int, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        row_branch = torch.arange(len(x)).repeat_interleave(x.shape[1])
        scores = router.scores(block, x.flatten(0, 1), embedded, row_branch).view(x.shape[:2])
        return scores + noise * torch.randn(scores.shape, generator=draw) if noise else scores

    return score


def random_score(seed: int) -> Score:
    """Return scores that are drawn: a router that knows nothing."""
    draw = torch.Generator().manual_seed(seed)
    return lambda block, x, embedded: torch.rand(x.shape[:2], generator=draw)


class PrunedPass:
    """A transformer of frozen weights."""

    def __init__(self, transformer: "SD3Transformer2DModel") -> None:
        self._model = transformer.eval().requires_grad_(False)

    @classmethod
    def load(cls, spec: ModelSpec) -> "PrunedPass":
        """Load the transformer of a model.  Raises CheckpointError, also for one that is not of SD3's kind."""
        from diffusers import SD3Transformer2DModel

        folder = model_folder(spec, "transformer")
        return cls(load_module(spec, folder, "transformer", SD3Transformer2DModel))

    @property
    def blocks(self) -> int:
        """The number of its blocks."""
        return len(self._model.transformer_blocks)

    @property
    def width(self) -> int:
        """The width of its rows."""
        return int(self._model.inner_dim)

    def tokens(self, latents: torch.Tensor) -> int:
        """Return the rows of an image, by the height and width of its latents."""
        patch = int(self._model.config.patch_size)
        return (latents.shape[-2] // patch) * (latents.shape[-1] // patch)

    def loss(self, examples: Examples, rows: Sequence[int], score: Score) -> torch.Tensor:
        """Return the error of the guided velocity with so many ``rows`` of each block, over the whole one's square."""
        model, branches = self._model, examples.branches
        with torch.no_grad():
            times = torch.full((len(examples.tokens),), examples.sigma * 1000)
            embedding = model.time_text_embed(times, examples.pooled)
            text = model.context_embedder(examples.tokens)
            image = model.pos_embed(examples.latents.repeat(branches, 1, 1, 1))
            whole, updates = self._whole(image, text, embedding)
        embedded = F.silu(embedding)
        for block, (module, count) in enumerate(zip(model.transformer_blocks, rows, strict=True)):
            if count == image.shape[1]:
                text, image = _run(module, image, text, embedding)
                continue
            scores = score(block, image.detach(), embedded)
            merged = scores.view(branches, -1, scores.shape[1]).amax(dim=0)
            index = highest(merged.detach(), count).repeat(branches, 1)[..., None].expand(-1, -1, image.shape[2])
            own = image.gather(1, index)
            text, computed = _run(module, own, text, embedding)
            update = updates[block].scatter(1, index, (computed - own).detach())
            gate = soft_gate(merged, count).repeat(branches, 1)[..., None]
            image = image.scatter(1, index, computed) + (gate - gate.detach()) * update
        found, wanted = (self._guided(rows, embedding, examples) for rows in (image, whole))
        return (found - wanted).square().mean() / wanted.square().mean()

    def _whole(
        self, image: torch.Tensor, text: torch.Tensor, embedding: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the rows after all blocks, and what each block added."""
        updates = []
        for module in self._model.transformer_blocks:
            text, after = _run(module, image, text, embedding)
            updates.append(after - image)
            image = after
        return image, updates

    def _guided(self, image: torch.Tensor, embedding: torch.Tensor, examples: Examples) -> torch.Tensor:
        out: torch.Tensor = self._model.proj_out(self._model.norm_out(image, embedding))
        if examples.branches == 1:
            return out
        unconditional, conditional = out.chunk(2)
        return unconditional + examples.guidance * (conditional - unconditional)


def soft_gate(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return, of scores (images, rows), how far each row is among the ``count`` highest, in 0..1 and differentiable."""
    rows = scores.shape[1]
    ahead = torch.sigmoid((scores[:, None, :] - scores[:, :, None]) / RANK_TEMPERATURE)
    ranks = 0.5 + ahead.sum(dim=2)  # a row is half ahead of itself
    return torch.sigmoid((count - ranks) / (GATE_TEMPERATURE * rows))


def _run(
    module: torch.nn.Module, image: torch.Tensor, text: torch.Tensor, embedding: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the text and image rows after a block; the last has no text."""
    after, rows = module(hidden_states=image, encoder_hidden_states=text, temb=embedding)
    return text if after is None else after, rows
