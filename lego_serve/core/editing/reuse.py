"""Which steps of an edit compute the whole image and which its masked rows alone: decided before the run.

What a step does not compute it reads from the template's activations at that step's sigma, or at that of a
step up to ``stride - 1`` before it, so that fewer of them need to be there.  Invariants: an entry is never of a step
after the one that reads it; ``exact`` reads none; a plan never reads where that would not save rows; what one
plan reads never takes more room than there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lego_serve.core.costs import StepWork


class Quality(StrEnum):
    """What a request asks for: the full computation, or how much may be read in its place.

    Nobody asks for ``careful``: it is what is tried where ``high`` was found wanting.
    """

    EXACT = "exact"
    CAREFUL = "careful"
    HIGH = "high"
    BALANCED = "balanced"


@dataclass(frozen=True, slots=True)
class ReuseRule:
    """The share of an edit's first and last steps that are computed in full, and how stale entries may be.

    ``uncaptioned_first``: the share of first steps where the words that primed say nothing of the image and it has
    enough rows (see ``UNCAPTIONED_ROWS``): what those words tint weighs the more the larger an image is.
    ``reads_text``: where they do say it, the text rows of the unconditional branch are read like those outside a mask.
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
        """The share of first steps in full for an image of so many rows."""
        low, high = UNCAPTIONED_ROWS
        grown = min(1.0, max(0.0, (rows - low) / (high - low)))
        return max(self.first, self.uncaptioned_first * grown) if is_uncaptioned else self.first


UNCAPTIONED_ROWS = (
    64,
    256,
)  # token rows of an image up to which nothing is needed, and from which all of ``uncaptioned_first`` is
REUSE_RULES: Mapping[Quality, ReuseRule] = {
    Quality.EXACT: ReuseRule(1.0, 0.0, 1),
    Quality.CAREFUL: ReuseRule(0.4, 0.0, 1),
    Quality.HIGH: ReuseRule(0.0, 0.0, 1, uncaptioned_first=0.15, reads_text=True),
    Quality.BALANCED: ReuseRule(0.0, 0.0, 2, reads_text=True),
}


@dataclass(frozen=True, slots=True)
class ReuseStats:
    """What an edit read of its template: in how many steps, how many token rows of an image's it computed there, how
    many passes over the template it had to run first, and how many entries of others had to go for what they left.
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
    """How much one replica keeps of templates, and how many bytes it may."""

    entries: int = 0
    used_bytes: int = 0
    budget_bytes: int = 0

    def __add__(self, other: "TemplateUse") -> "TemplateUse":
        return TemplateUse(
            self.entries + other.entries, self.used_bytes + other.used_bytes, self.budget_bytes + other.budget_bytes
        )


MAX_ACTIVE_FRACTION = 0.8  # share of the rows above which computing some of them saves nothing worth its trouble


@dataclass(frozen=True, slots=True)
class ReusePlan:
    """For each step: the step whose entries it reads, or None where it computes everything.

    ``reads_text``: a step that reads reads the text rows of its unconditional branch as well.
    """

    entries: tuple[int | None, ...]
    reads_text: bool = False

    @property
    def masked_steps(self) -> int:
        """Steps that compute the masked rows alone."""
        return sum(entry is not None for entry in self.entries)

    @property
    def sources(self) -> tuple[int, ...]:
        """The steps whose entries are read, each once."""
        return tuple(sorted({entry for entry in self.entries if entry is not None}))


def plan_reuse(
    rule: ReuseRule, steps: int, active_rows: int, rows: int, room: int | None = None, *, is_uncaptioned: bool = False
) -> ReusePlan:
    """The plan of an edit whose mask touches ``active_rows`` of its image's ``rows``.

    ``room``: the steps whose entries can be kept at once; the first are computed in full where that is too few.
    ``is_uncaptioned``: the words that primed say nothing of the image.
    """
    if steps < 1 or not 0 <= active_rows <= rows:
        raise ValueError(f"{steps} steps of {active_rows} in {rows} rows")
    first, last = _share(rule.first_share(rows, is_uncaptioned=is_uncaptioned), steps), _share(rule.last, steps)
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
    """The part of an image's rows that a step which may read the others computes."""
    return 1.0 if active_rows > MAX_ACTIVE_FRACTION * rows else active_rows / rows


def branch_work(image_rows: int, active_rows: int, text_rows: int, *, reads_text: bool = False) -> StepWork:
    """Rows and pairs of one branch that computes ``active_rows`` of its image's rows, and its text's unless read."""
    own = active_rows if reads_text else active_rows + text_rows
    return StepWork(own, own * (image_rows + text_rows))


def _share(share: float, steps: int) -> int:
    """Steps of a share, rounded up."""
    return min(steps, -int(-share * steps // 1))
