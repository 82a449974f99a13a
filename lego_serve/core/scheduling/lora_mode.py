"""How a step applies adapters: all sets grouped in one batch, or the weights patched with one set at a time.

Grouped, every lane runs in every step and pays for low-rank products of its own; patched, a step holds
the lanes of one set, which run as fast as without, and the others wait for a swap.  The cheaper way to bring
all lanes forward by a step is taken.  Which it is depends on what else is in the batch, and the two differ in
the last bits: where a lane's bits must not depend on its batch-mates, one way is fixed for all.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from lego_serve.core.costs import Rates, StepWork


class LoraMode(Enum):
    """Which way is taken; AUTO by predicted cost, and not where bits must be the same in every batch."""

    GROUPED = "grouped"
    PATCHED = "patched"
    AUTO = "auto"


def allowed_mode(mode: LoraMode, *, batch_invariant: bool) -> LoraMode:
    """The mode to run in: where bits must not depend on batch-mates, a choice by cost becomes a fixed one."""
    return LoraMode.GROUPED if batch_invariant and mode is LoraMode.AUTO else mode


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """A lane's set of adapters in a step: its name, and what it weighs.

    ``row_products``: multiplications a row pays when grouped; ``touched``: weights rewritten when patched.
    """

    key: Hashable
    row_products: int
    touched: int


@dataclass(frozen=True, slots=True)
class AdapterRates:
    """Seconds a multiplication of a row, a set in a step, and a weight rewritten."""

    product_s: float = 0.0
    set_s: float = 0.0
    touch_s: float = 0.0

    def grouped_s(self, of: AdapterSet, rows: int) -> float:
        """What a set's rows add to a step when grouped."""
        return self.set_s + of.row_products * rows * self.product_s

    def swap_s(self, of: AdapterSet) -> float:
        """What patching a set in, and the one before it out, takes."""
        return of.touched * self.touch_s


@dataclass(frozen=True, slots=True)
class LoraLane:
    """A lane as the choice sees it: its set, if any, what its step weighs, and the steps it has left."""

    adapters: AdapterSet | None
    work: StepWork
    steps_left: int


def grouped_extra_s(lanes: Sequence[LoraLane], costs: AdapterRates) -> float:
    """Predicted seconds that grouped products add to a step of these lanes."""
    rows: dict[AdapterSet, int] = {}
    for lane in lanes:
        if lane.adapters is not None:
            rows[lane.adapters] = rows.get(lane.adapters, 0) + lane.work.rows
    return sum(costs.grouped_s(of, count) for of, count in rows.items())


def patching_pays(lanes: Sequence[LoraLane], patched: Hashable, rates: Rates, costs: AdapterRates) -> bool:
    """Whether one set after another, patched, brings these lanes forward by a step sooner than all at once, grouped.

    A set stays for as long as its lanes have steps left, over which its swap is spread; one that is ``patched``
    already costs no swap as long as it is the only one.
    """
    by_set: dict[AdapterSet | None, list[LoraLane]] = {}
    for lane in lanes:
        by_set.setdefault(lane.adapters, []).append(lane)
    patched_s = 0.0
    for of, group in by_set.items():
        patched_s += _seconds(group, rates)
        is_there = len(by_set) == 1 and of is not None and of.key == patched
        if of is not None and not is_there:
            patched_s += costs.swap_s(of) / max(lane.steps_left for lane in group)
    return patched_s < _seconds(lanes, rates) + grouped_extra_s(lanes, costs)


def _seconds(lanes: Sequence[LoraLane], rates: Rates) -> float:
    return rates.seconds(sum(lane.work.rows for lane in lanes), sum(lane.work.pairs for lane in lanes))
