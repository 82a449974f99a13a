"""Checkpoints of tiers: a tier may run other weights than its model's, such as a student of few steps.

Such a tier draws from text alone.  What was made for the model's own weights, or would begin where the student never
did, was not tuned with the others; it is refused by name and never left out.
"""

from collections.abc import Collection
from dataclasses import dataclass

from lego_serve.errors import RequestError

NO_SUCH_TIER = "no_such_tier"  # the code of an error about a tier
NOT_TUNED = {  # arguments of a denoising node, and what a request calls them
    "adapters": "adapters",
    "controls": "ControlNets",
    "init": "images to start from",
    "edit": "edits",
    "reference": "reference images",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model at ``path`` that a tier runs, in the place of its own, and the digest of that one's denoiser.

    ``guidance`` is what it was distilled for, whatever is asked; from 1 down it has no second branch.  None runs the
    guidance that is asked.
    """

    path: str
    weights: str = ""
    guidance: float | None = 1.0

    def __post_init__(self) -> None:
        if not self.path or (self.guidance is not None and self.guidance < 0):
            raise ValueError(f"no tier runs a checkpoint {self.path!r} with a guidance of {self.guidance}")

    @property
    def is_unguided(self) -> bool:
        """Whether it computes one branch alone, whatever is asked."""
        return self.guidance is not None and self.guidance <= 1

    def check(self, weights: str) -> None:
        """Raise ValueError where it is not the one that was tuned, by a digest."""
        if self.weights and self.weights != weights:
            raise ValueError(f"{self.path} has other weights than those that were tuned; judge it and tune it again")


def refuse_untuned(tier: str, given: Collection[str]) -> None:
    """Raise RequestError where a denoising node is given arguments that the checkpoint of a tier was not tuned with."""
    words = [NOT_TUNED[name] for name in NOT_TUNED if name in given]
    if words:
        raise untuned(tier, " and ".join(words))


def untuned(tier: str, what: str) -> RequestError:
    """Return the error about something that a tier's checkpoint was not tuned with."""
    message = f"Tier {tier} runs other weights, which were not tuned with {what}; leave it out, or name another tier."
    return RequestError(message, param="tier", code=NO_SUCH_TIER)
