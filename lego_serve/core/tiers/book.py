"""Tiers: how much of the work that is asked for is done, by measured combinations, one book of them for each model.

``exact`` does all of it.  Every other tier replaces the steps of a sampler, for images of a range of sizes, by a grid
that was tuned and measured for them.  Invariants: nothing that was not tuned is run, and no tier stands in for another
unless the request allows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lego_serve.core.tiers.block_rows import BlockRows
from lego_serve.core.tiers.checkpoints import NO_SUCH_TIER, Checkpoint
from lego_serve.core.tiers.grids import Grid
from lego_serve.core.tiers.own_rows import OwnRows
from lego_serve.errors import RequestError

EXACT = "exact"
TIERS = (EXACT, "high", "balanced", "fast", "turbo")  # from all of the work to the least


@dataclass(frozen=True, slots=True)
class TierChoice:
    """The tier that a job runs in, and the part of the work of its steps that this does.

    ``lowered_from``: the tier that was asked for, where the server ran a lower one under load.  ``shares``: the part by
    denoising node, of which some may not take the job's tier; no comparison heeds it.
    """

    tier: str = EXACT
    share: float = 1.0
    lowered_from: str | None = None
    shares: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class TierUse:
    """The tier that a lane ran in, the evaluations that it took, and the steps that these stand for.

    ``rows_ratio``: the rows of the image that an evaluation computed in all its branches, over those of a step that it
    stands for; both are means.
    """

    tier: str
    evaluations: int
    steps: int
    rows_ratio: float = 1.0

    @property
    def saved_ratio(self) -> float:
        """The part of the rows of all steps that was saved."""
        return 1 - self.rows_ratio * self.evaluations / self.steps


@dataclass(frozen=True, slots=True)
class TierRun:
    """What a tier runs in place of the steps of a sampler, for images of ``pixels``, from and up to and including.

    With ``own_rows`` some of the grid's steps compute a part of the rows, and with ``block_rows`` some of their blocks
    do; with a ``checkpoint`` other weights do.  ``quality`` holds what was measured of it, by the names of the tables.
    """

    tier: str
    sampler: str
    steps: int
    pixels: tuple[int, int]
    grid: Grid
    quality: Mapping[str, object] = field(default_factory=dict)
    own_rows: OwnRows | None = None
    checkpoint: Checkpoint | None = None
    block_rows: BlockRows | None = None

    def __post_init__(self) -> None:
        low, high = self.pixels
        if self.tier not in TIERS or self.tier == EXACT or self.steps < 1 or not 0 < low <= high:
            raise ValueError(f"no tier runs as {self.tier!r} of {self.steps} steps, {low} to {high} pixels")
        blocks, evaluations = self.block_rows, self.grid.evaluations
        if blocks is not None and (self.own_rows is not None or blocks.evaluations != evaluations):
            message = f"rows per block of {blocks.evaluations} evaluations go with a grid of as many, not {evaluations}"
            raise ValueError(f"{message}, and with no own rows")
        if blocks is not None and self.checkpoint is not None:
            raise ValueError("rows per block are chosen by the router of the model's own weights, not of a checkpoint")

    @property
    def rows_ratio(self) -> float:
        """The part of an image's rows that its evaluations compute, by own rows or by rows per block."""
        if self.own_rows is not None:
            return self.own_rows.rows_ratio(self.grid.evaluations)
        return 1.0 if self.block_rows is None else self.block_rows.rows_ratio

    @property
    def work_share(self) -> float:
        """The part of the work of all steps that it does in each branch: of their evaluations, and of their rows."""
        return self.rows_ratio * self.grid.evaluations / self.steps

    def is_for(self, sampler: str, steps: int, pixels: int) -> bool:
        """Whether it may run in place of these steps, for an image of so many pixels."""
        low, high = self.pixels
        return (sampler, steps) == (self.sampler, self.steps) and low <= pixels <= high


@dataclass(frozen=True, slots=True)
class TierBook:
    """The tiers of a model that have been tuned; ``default`` is that of requests which name none.

    ``weights`` is the digest of those that they were tuned on; empty where there is nothing to compare.  Tiers that are
    ``left_out`` need weights that the server does not hold.
    """

    runs: tuple[TierRun, ...] = ()
    default: str = EXACT
    weights: str = ""
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.default in self.left_out:
            raise ValueError(f"the tier {self.default} runs other weights: it needs `checkpoint_tiers: true`")
        if self.default not in self.names:
            raise ValueError(f"the tier {self.default} is not tuned, there is {', '.join(self.names)}")
        for run in self.runs:
            if run.checkpoint != self.checkpoints.get(run.tier):
                raise ValueError(f"the tier {run.tier} has runs of several checkpoints")

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers there are, ``exact`` first."""
        tuned = {run.tier for run in self.runs}
        return tuple(tier for tier in TIERS if tier == EXACT or tier in tuned)

    @property
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """The checkpoint of each tier that runs other weights than the model's."""
        return {run.tier: run.checkpoint for run in self.runs if run.checkpoint is not None}

    def without_checkpoints(self) -> "TierBook":
        """Return the tiers that run the model's own weights.  Raises ValueError where the default is none of them."""
        own = tuple(run for run in self.runs if run.checkpoint is None)
        return replace(self, runs=own, left_out=tuple(self.checkpoints))

    def of_checkpoint(self, tier: str) -> "TierBook":
        """Return the book of what computes on the checkpoint of a tier, and on nothing else: of its own weights."""
        runs = tuple(run for run in self.runs if run.tier == tier)
        return TierBook(runs, tier, self.checkpoints[tier].weights)

    def check(self, weights: str) -> None:
        """Raise ValueError where the tiers were tuned on other weights than those of a digest."""
        if self.weights and self.weights != weights:
            raise ValueError("its tiers were tuned on other weights; tune them again, or take the file of tiers away")

    def choose(self, tier: str | None, sampler: str, steps: int, width: int, height: int) -> TierRun | None:
        """Return what runs in place of these steps, None for ``exact``.  Raises RequestError where none was tuned."""
        tier = self.default if tier is None else tier
        if tier == EXACT:
            return None
        if tier in self.left_out:
            raise _refused(
                f"Tier {tier} runs other weights, which this server does not hold: its operator may have it do so, by "
                f"`checkpoint_tiers`. There is {', '.join(self.names)}."
            )
        if tier not in self.names:
            raise _refused(f"This model has no tier of this name; there is {', '.join(self.names)}.")
        tuned = [run for run in self.runs if run.tier == tier]
        for run in tuned:
            if run.is_for(sampler, steps, width * height):
                return run
        raise _refused(
            f"Tier {tier} is not tuned for {steps} steps of {sampler} at {width}x{height}; it is for "
            f"{_listed(tuned)}, and tier exact for all."
        )


def cheaper(tier: str, floor: str) -> tuple[str, ...]:
    """Return the tiers below one, down to a floor, each cheaper than the one before."""
    return TIERS[TIERS.index(tier) + 1 : TIERS.index(floor) + 1]


def _listed(runs: Sequence[TierRun]) -> str:
    """Return what runs are for, in words."""
    words = {f"{run.steps} steps of {run.sampler} from {run.pixels[0]} to {run.pixels[1]} pixels" for run in runs}
    return ", ".join(sorted(words))


def _refused(message: str) -> RequestError:
    return RequestError(message, param="tier", code=NO_SUCH_TIER)
