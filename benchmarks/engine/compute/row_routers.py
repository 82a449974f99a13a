"""Rows per block by three routers: the trained one of a file, one that was never trained, and one that draws lots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.models.ragged.pruning.router import BlockRouter
from lego_serve.models.router_files import read_router
from lego_serve.tuning.quality import Row


@dataclass(frozen=True, slots=True)
class RandomRows(BlockRouter):
    """Scores that say nothing of the rows; the same lots in the same order in every process."""

    draw: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def scores(self, block: int, x: torch.Tensor, embedded: torch.Tensor, row_branch: torch.Tensor) -> torch.Tensor:
        """Draw the scores of rows x (rows, width)."""
        return torch.rand(len(x), generator=self.draw)


def routed_rows(file: Path | None, weights: str, shares: Sequence[float], steps: int) -> list[Row]:
    """Return rows of all steps for each share and router; none without a file.  Raises ValueError."""
    if file is None:
        return []
    trained = read_router(file, weights)
    routers = {
        "trained": trained,
        "untrained": BlockRouter.drawn(trained.blocks, trained.width, seed=0),
        "random": RandomRows(trained.scorers),
    }
    return [
        Row(f"block rows {share:.0%}, {name}", None, steps, block_rows=plan, router=router)
        for share in shares
        for plan in (BlockRows.about(share, steps, trained.blocks),)
        for name, router in routers.items()
    ]
