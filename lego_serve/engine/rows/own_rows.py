"""A lane's own rows: what it keeps of its last steps, and which rows its next step computes.

State belongs to the lane and is read by it alone; both branches take the rows of the same steps.  Nothing is read back
from the device: how many rows are active is known, and which ones is a tensor.
"""

from dataclasses import dataclass, field

import torch

from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.models.ragged.activations import KeptKeys, Reuse
from lego_serve.models.ragged.conditioning import LatentShape

WAITING_GROWTH = 1.3  # a step: what a row's last change counts for more, the longer it has not been computed


@dataclass(slots=True)
class LaneRows:
    """The keys and values of all of a lane's rows by branch, its velocity everywhere, and how fast that changes.

    ``changes``: by token row, the mean change of its velocity when it was last computed, grown since.  ``keys`` are
    filled by dense steps, and in the rows that they compute by sparse ones.
    """

    plan: OwnRows
    patch: int  # latent pixels a side of a token
    cond: KeptKeys = field(default_factory=KeptKeys)
    negative: KeptKeys | None = None
    velocity: torch.Tensor | None = None
    changes: torch.Tensor | None = None
    active: torch.Tensor | None = None  # rows of the step that was made ready last; None where it computes all

    @classmethod
    def of(cls, plan: OwnRows, shape: LatentShape) -> "LaneRows":
        """Return the rows of a lane before its first step."""
        return cls(plan, shape.pixels_per_token // shape.pixels_per_latent)

    def capture(self, *, guided: bool) -> tuple[KeptKeys, KeptKeys | None]:
        """Return what a dense step fills, by branch."""
        self.negative = KeptKeys() if guided else None
        self.cond, self.active = KeptKeys(), None
        return self.cond, self.negative

    def reuse(self) -> Reuse:
        """Return the rows that a sparse step computes, those whose velocity changes most, and what it reads."""
        assert self.changes is not None
        count = self.plan.active_rows(len(self.changes))
        self.active = self.changes.topk(count).indices.sort().values
        return Reuse(self.active, self.cond, self.negative)

    def take(self, velocity: torch.Tensor) -> None:
        """Take the whole velocity of a step, which in rows that it did not compute is that of the step before."""
        if self.velocity is None:
            self.changes = self._by_token(torch.full_like(velocity, torch.inf))
            self.velocity = velocity
            return
        assert self.changes is not None
        changes = self._by_token((velocity - self.velocity).abs())
        if self.active is not None:
            grown = self.changes * WAITING_GROWTH
            changes = grown.index_copy(0, self.active, changes[self.active])
        self.velocity, self.changes = velocity, changes

    def _by_token(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the mean of latents (channels, height, width) over each token's numbers, by token row."""
        return torch.nn.functional.avg_pool2d(latents.mean(dim=0)[None], self.patch).flatten()
