"""Plans an edit before it runs: which steps compute the whole image, and which only the rows inside the mask.

A masked step reads the other rows from the template's activations at its own sigma, or at that of a step up to
``stride - 1`` before it, so that fewer entries are needed.  Invariants: a step never reads an entry of a later step;
``exact`` reads none; a plan reads nothing if that saves no rows; a plan never reads more entries than fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lego_serve.core.costs import StepWork


class Quality(StrEnum):
    """How much of an edit may be read from a template instead of computed, which a request chooses.

    CAREFUL cannot be requested: it is used when HIGH falls below the SSIM floor.
    """

    EXACT = "exact"
    CAREFUL = "careful"
    HIGH = "high"
    BALANCED = "balanced"


@dataclass(frozen=True, slots=True)
class ReuseRule:
    """The shares of an edit's first and last steps that are computed in full, and the stride of the entries read.

    ``uncaptioned_first``: the share of first steps computed in full if the priming prompt does not describe the image
    and the image has enough rows (see ``UNCAPTIONED_ROWS``): such a prompt tints larger images more.  ``reads_text``:
    if the prompt does describe it, the text rows of the unconditional branch are read too.
    """

    first: float
    last: float
    stride: int
    uncaptioned_first: float = 0.0
    reads_text: bool = False

    def __post_init__(self) -> None:
        if not (all(0 <= share <= 1 for share in (self.first, self.last, self.uncaptioned_first)) and self.stride >= 1):
            raise ValueError("shares lie in 0..1 and a stride is 1 or more")

    def first_share(self, rows: int, *, is_uncaptioned: bool) -> float:
        """Return the share of first steps that are computed in full for an image of so many rows."""
        low, high = UNCAPTIONED_ROWS
        growth = min(1.0, max(0.0, (rows - low) / (high - low)))
        return max(self.first, self.uncaptioned_first * growth) if is_uncaptioned else self.first


# Up to the first number of an image's token rows ``uncaptioned_first`` counts as 0, from the second on in full.
UNCAPTIONED_ROWS = (64, 256)
REUSE_RULES: Mapping[Quality, ReuseRule] = {
    Quality.EXACT: ReuseRule(1.0, 0.0, 1),
    Quality.CAREFUL: ReuseRule(0.4, 0.0, 1),
    Quality.HIGH: ReuseRule(0.0, 0.0, 1, uncaptioned_first=0.15, reads_text=True),
    Quality.BALANCED: ReuseRule(0.0, 0.0, 2, reads_text=True),
}


@dataclass(frozen=True, slots=True)
class ReuseStats:
    """What an edit read from its template: in ``masked_steps`` of its steps it computed ``active_rows`` of the rows.

    ``primed``: the passes over the template that had to run first.  ``evicted``: the entries of others evicted for
    theirs.
    """

    quality: str
    masked_steps: int
    steps: int
    active_rows: int
    rows: int
    primed: int
    evicted: int = 0


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """The memory one replica uses for templates, and its budget."""

    entries: int = 0
    used_bytes: int = 0
    budget_bytes: int = 0

    def __add__(self, other: "TemplateUse") -> "TemplateUse":
        return TemplateUse(
            self.entries + other.entries, self.used_bytes + other.used_bytes, self.budget_bytes + other.budget_bytes
        )


MAX_ACTIVE_FRACTION = 0.8  # above this fraction of active rows a masked step saves too little


@dataclass(frozen=True, slots=True)
class ReusePlan:
    """For each step, the step whose entries it reads, or None if it computes everything.

    ``reads_text``: masked steps read the text rows of the unconditional branch as well.
    """

    entries: tuple[int | None, ...]
    reads_text: bool = False

    @property
    def masked_steps(self) -> int:
        """The number of steps that compute only the masked rows."""
        return sum(entry is not None for entry in self.entries)

    @property
    def sources(self) -> tuple[int, ...]:
        """The steps whose entries are read, each once, in order."""
        return tuple(sorted({entry for entry in self.entries if entry is not None}))


def plan_reuse(
    rule: ReuseRule,
    steps: int,
    active_rows: int,
    rows: int,
    room: int | None = None,
    *,
    is_uncaptioned: bool = False,
    begins: Sequence[int] | None = None,
) -> ReusePlan:
    """Return the plan of an edit whose mask covers ``active_rows`` of its image's ``rows``.

    ``room``: how many steps' entries fit into memory at once; if too few, more of the first steps run in full.
    ``is_uncaptioned``: the priming prompt does not describe the image.  ``begins``: on a grid, the index of the step,
    of ``steps``, that each of the grid's begins in; the shares are of those.  Raises ValueError for impossible numbers.
    """
    if steps < 1 or not 0 <= active_rows <= rows:
        raise ValueError(f"{steps} steps of {active_rows} in {rows} rows")
    share = rule.first_share(rows, is_uncaptioned=is_uncaptioned)
    first, last = _steps_of(share, steps), _steps_of(rule.last, steps)
    if begins is not None:
        first, last = sum(each < first for each in begins), sum(each >= steps - last for each in begins)
        steps = len(begins)
    if room is not None:
        first = max(first, steps - last - room * rule.stride)
    if active_rows > MAX_ACTIVE_FRACTION * rows:
        first = steps
    entries: list[int | None] = []
    for step in range(steps):
        is_masked = first <= step < steps - last
        entries.append(step - (step - first) % rule.stride if is_masked else None)
    return ReusePlan(tuple(entries), rule.reads_text and not is_uncaptioned)


def active_fraction(active_rows: int, rows: int) -> float:
    """Return the fraction of an image's rows that a masked step computes."""
    return 1.0 if active_rows > MAX_ACTIVE_FRACTION * rows else active_rows / rows


def branch_work(image_rows: int, active_rows: int, text_rows: int, *, reads_text: bool = False) -> StepWork:
    """Return the work of a branch that computes ``active_rows`` of its image's rows, and its text rows unless read."""
    computed_rows = active_rows if reads_text else active_rows + text_rows
    return StepWork(computed_rows, computed_rows * (image_rows + text_rows))


def _steps_of(share: float, steps: int) -> int:
    """Return a share of the steps, rounded up."""
    return min(steps, -int(-share * steps // 1))
