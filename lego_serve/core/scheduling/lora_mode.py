"""Chooses how a step applies adapters: all sets grouped in one batch, or the weights patched with one set.

Grouped, the lanes of all sets run in one step and each pays for its own low-rank products.  Patched, a step has the
lanes of one set, at the speed of lanes without adapters, and the other lanes wait for a swap.  The choice is the one
that advances all lanes by a step in less time.  It depends on the other lanes of the batch, and the two modes differ
in the last bits; if a lane's bits must not depend on its batch-mates, the mode is fixed instead.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from lego_serve.core.costs import Rates, StepWork


class LoraMode(Enum):
    """How adapters are applied; AUTO chooses by predicted cost and is not batch-invariant."""

    GROUPED = "grouped"
    PATCHED = "patched"
    AUTO = "auto"


def allowed_mode(mode: LoraMode, *, batch_invariant: bool) -> LoraMode:
    """Return the mode to run in: with ``batch_invariant``, AUTO becomes GROUPED."""
    return LoraMode.GROUPED if batch_invariant and mode is LoraMode.AUTO else mode


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """The adapters of a lane in a step, with their costs.

    ``row_products``: multiplications per row if grouped; ``touched``: weights rewritten if patched.
    """

    key: Hashable
    row_products: int
    touched: int


@dataclass(frozen=True, slots=True)
class AdapterRates:
    """Seconds per multiplication, per set in a step, and per weight rewritten."""

    product_s: float = 0.0
    set_s: float = 0.0
    touch_s: float = 0.0

    def grouped_s(self, adapters: AdapterSet, rows: int) -> float:
        """Return the seconds that a set with so many rows adds to a grouped step."""
        return self.set_s + adapters.row_products * rows * self.product_s

    def swap_s(self, adapters: AdapterSet) -> float:
        """Return the seconds of patching a set in, and the one before it out."""
        return adapters.touched * self.touch_s


@dataclass(frozen=True, slots=True)
class LoraLane:
    """A lane as the choice of a mode sees it: its set, the work of its step, and its remaining steps."""

    adapters: AdapterSet | None
    work: StepWork
    steps_left: int


def grouped_extra_s(lanes: Sequence[LoraLane], costs: AdapterRates) -> float:
    """Return the predicted seconds that grouped adapters add to a step of these lanes."""
    rows: dict[AdapterSet, int] = {}
    for lane in lanes:
        if lane.adapters is not None:
            rows[lane.adapters] = rows.get(lane.adapters, 0) + lane.work.rows
    return sum(costs.grouped_s(adapters, count) for adapters, count in rows.items())


def patching_pays(lanes: Sequence[LoraLane], patched: Hashable, rates: Rates, costs: AdapterRates) -> bool:
    """Return whether patching one set after another advances these lanes by a step sooner than grouping them all.

    A swap is spread over the remaining steps of the set's lanes, for which the set stays patched in.  The set that is
    ``patched`` already needs no swap if it is the only one.
    """
    by_set: dict[AdapterSet | None, list[LoraLane]] = {}
    for lane in lanes:
        by_set.setdefault(lane.adapters, []).append(lane)
    patched_s = 0.0
    for adapters, group in by_set.items():
        patched_s += _seconds(group, rates)
        is_patched = len(by_set) == 1 and adapters is not None and adapters.key == patched
        if adapters is not None and not is_patched:
            patched_s += costs.swap_s(adapters) / max(lane.steps_left for lane in group)
    return patched_s < _seconds(lanes, rates) + grouped_extra_s(lanes, costs)


def _seconds(lanes: Sequence[LoraLane], rates: Rates) -> float:
    return rates.seconds(sum(lane.work.rows for lane in lanes), sum(lane.work.pairs for lane in lanes))
