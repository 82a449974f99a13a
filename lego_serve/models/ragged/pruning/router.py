"""The router of rows per block: a small score of each image row, by which a block takes those that it computes.

As in Shiva-DiT (2026), s = w SiLU(P norm(x) + Q c + b) with a P, Q, b and w of each block, a few kilobytes: x is the
row's value before the block, c the branch's embedding of time and text.  Only the order of the scores matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from lego_serve.models.ragged.batch_invariant import LinearOps
from lego_serve.models.ragged.layers import NORM_EPSILON

HIDDEN = 8  # numbers of a row between the two products of its score


@dataclass(frozen=True, slots=True)
class Scorer:
    """One block's: ``row`` and ``cond`` (hidden, width), ``bias`` (hidden,), ``out`` (1, hidden), all fp32."""

    row: torch.Tensor
    cond: torch.Tensor
    bias: torch.Tensor
    out: torch.Tensor

    @property
    def parts(self) -> tuple[torch.Tensor, ...]:
        """Its weights, in the order of the fields."""
        return self.row, self.cond, self.bias, self.out

    def __call__(
        self, x: torch.Tensor, embedded: torch.Tensor, row_branch: torch.Tensor, ops: LinearOps
    ) -> torch.Tensor:
        """Score rows x (rows, width): (rows,), fp32.

        ``embedded`` (branches, width); ``row_branch`` (rows,) says which of its rows each row takes.
        """
        normed = F.layer_norm(x.float(), x.shape[1:], eps=NORM_EPSILON)
        hidden = ops.linear(normed, self.row) + ops.linear(embedded.float(), self.cond, self.bias)[row_branch]
        return ops.linear(F.silu(hidden), self.out)[:, 0]


@dataclass(frozen=True, slots=True)
class BlockRouter:
    """A scorer for each block but the first, which is always whole; ``ops`` are the products of the model's layers."""

    scorers: tuple[Scorer, ...]
    ops: LinearOps = field(default_factory=LinearOps)

    @classmethod
    def drawn(cls, blocks: int, width: int, seed: int) -> "BlockRouter":
        """Return an untrained router of a model of so many blocks."""
        draw = torch.Generator().manual_seed(seed)
        return cls(tuple(_drawn(width, draw) for _ in range(blocks - 1)))

    @property
    def blocks(self) -> int:
        """The number of blocks of the model that it is for."""
        return len(self.scorers) + 1

    @property
    def width(self) -> int:
        """The width of that model."""
        return int(self.scorers[0].row.shape[1])

    def scores(self, block: int, x: torch.Tensor, embedded: torch.Tensor, row_branch: torch.Tensor) -> torch.Tensor:
        """Score rows before a block, as ``Scorer`` does."""
        return self.scorers[block - 1](x, embedded, row_branch, self.ops)

    def on(self, device: torch.device, ops: LinearOps) -> "BlockRouter":
        """Return it on a model's device, with its products."""
        return BlockRouter(tuple(Scorer(*(part.to(device) for part in each.parts)) for each in self.scorers), ops)


def _drawn(width: int, draw: torch.Generator) -> Scorer:
    row, cond = (torch.randn(HIDDEN, width, generator=draw) / width**0.5 for _ in range(2))
    return Scorer(row, cond, torch.zeros(HIDDEN), torch.randn(1, HIDDEN, generator=draw) / HIDDEN**0.5)


def highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the highest of each line of scores (lines, rows), ascending: (lines, count).

    Of equal scores the first is higher; a score that is no number is higher than all.
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values


def merged(scores: torch.Tensor, branches: Sequence[slice]) -> torch.Tensor:
    """Return the scores of a lane's rows, the higher of its branches', so that all of these take the same rows."""
    first, *others = (scores[rows] for rows in branches)
    for other in others:
        first = torch.maximum(first, other)
    return first
