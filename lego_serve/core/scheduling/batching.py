"""Continuous batching at step granularity: which lanes run in the next forward pass.

A lane joins at any step and leaves when its steps are done.  The planner never touches a tensor
and the runner never chooses.  Keys are never used twice.  Invariants: a lane's next step lies in
[0, steps); a plan keeps to the limits unless it holds a single lane; a suspect lane runs alone; a
paused lane does not run; whatever the order puts first runs, so that nothing starves that the
order does not starve; nobody joins a step that would then be too long for the deadline of a lane in it.
"""

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_serve.core.costs import Rates, StepCost, StepWork
from lego_serve.core.scheduling.lane import Lane
from lego_serve.core.scheduling.lora_mode import (
    AdapterRates,
    AdapterSet,
    LoraLane,
    LoraMode,
    grouped_extra_s,
    patching_pays,
)
from lego_serve.core.scheduling.ordering import LanePolicy, ReplicaPace

EFFICIENCY = 0.9
PACE = 0.9  # of the seconds a lane has left for each of its steps, what a step it shares may take
FEWEST_ROWS = 1024  # beyond it a forward pass of any size we measured makes full use of a CPU core
FEWEST_PAIRS = 256 * 1024
RELAX_STEPS = 200
MOST_ROWS = 2**24  # a limit that memory set and that has grown to this is none


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The lanes of one forward pass, each with the step it takes, and what they weigh together.

    ``patched``: all have this set of adapters, to be patched into the weights rather than grouped; ``extra_s`` are
    the predicted seconds that adapters add to the step.
    """

    keys: tuple[str, ...]
    steps: tuple[int, ...]
    work: StepWork
    patched: AdapterSet | None = None
    extra_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What one forward pass may take: predicted seconds, and token rows where memory bounds them.

    Without ``max_step_s`` a step may take as long as it pays: until EFFICIENCY of it is spent on
    rows and pairs and the rest on the step itself, and for FEWEST_ROWS rows in any case.
    """

    max_step_s: float | None = None
    max_rows: int | None = None

    def seconds(self, rates: Rates) -> float:
        """Predicted seconds a step may take at these rates."""
        if self.max_step_s is not None:
            return self.max_step_s
        return max(rates.constant_s / (1 - EFFICIENCY), rates.seconds(FEWEST_ROWS, FEWEST_PAIRS))


class StepBatcher:
    """The lanes waiting and running in one replica."""

    def __init__(
        self,
        order: LanePolicy,
        limits: StepLimits,
        calibrated: Rates | None = None,
        adapters: LoraMode = LoraMode.GROUPED,
        adapter_rates: AdapterRates | None = None,
    ) -> None:
        self._order = order
        self._adapters, self._adapter_rates = adapters, adapter_rates or AdapterRates()
        self._patched: Hashable = None
        self._limits = limits
        self._memory_rows: int | None = None
        self._steps_to_relax = 0
        self._steps_grouped = 0  # before patching is tried again
        self._lanes: dict[str, Lane] = {}
        self._cost = StepCost(calibrated)
        self._step_s = 0.0  # what steps take lately

    @property
    def lanes(self) -> int:
        """Lanes in hand."""
        return len(self._lanes)

    @property
    def limits(self) -> StepLimits:
        """What a step may take now."""
        if self._memory_rows is None:
            return self._limits
        return StepLimits(self._limits.max_step_s, min(self._memory_rows, self._limits.max_rows or self._memory_rows))

    @property
    def rates(self) -> Rates:
        """What a step costs, as known now."""
        return self._cost.rates

    def add(self, lane: Lane) -> None:
        """Take a lane; it may run from the next plan on.  ValueError when the key is known or nothing is to do."""
        if lane.key in self._lanes:
            raise ValueError(f"lane {lane.key} is already here")
        fewest = min((step.rows for step in lane.work), default=0)
        if lane.is_finished or lane.next_step < 0 or fewest <= 0 or lane.weight <= 0:
            raise ValueError(f"lane {lane.key} has {lane.steps_left} steps of {fewest} rows and weight {lane.weight}")
        self._lanes[lane.key] = lane

    def cancel(self, key: str) -> bool:
        """Drop a lane; False when it is not here."""
        return self._lanes.pop(key, None) is not None

    def pause(self, key: str) -> bool:
        """Keep a lane but do not run it until ``resume``; False when it is not here."""
        return self._set_paused(key, True)

    def resume(self, key: str) -> bool:
        """Let a paused lane run on from where it stands; False when it is not here."""
        return self._set_paused(key, False)

    def is_suspect(self, key: str) -> bool:
        """Whether a lane must run its next step alone; False when it is not here."""
        return key in self._lanes and self._lanes[key].is_suspect

    def set_adapters(
        self, key: str, adapters: tuple[AdapterSet | None, ...], shared: tuple[Mapping[str, StepWork], ...] = ()
    ) -> None:
        """Change a lane's sets from its next step on, and what it shares under them.  KeyError when it is not here."""
        self._lanes[key].adapters, self._lanes[key].shared = adapters, shared

    def limit_rows(self, max_rows: int) -> None:
        """Let no step of more than one lane have more rows than this, since memory ran out above it.

        Somebody else may have had the memory: every RELAX_STEPS steps the limit is a quarter higher.
        """
        self._memory_rows = max(1, max_rows)
        self._steps_to_relax = RELAX_STEPS

    def group_adapters(self) -> None:
        """Patch nothing for RELAX_STEPS steps, whatever the mode, since memory ran out in patching."""
        self._steps_grouped = RELAX_STEPS

    def plan(self, now: float, kept: Container[str] = ()) -> StepPlan | None:
        """What runs next: lanes in order for as long as they fit; None when there is nothing to do.

        ``kept`` has what lanes share and need not run again.
        """
        lanes = list(self._lanes.values())
        rates = self._cost.rates
        order = self._order(lanes, now, ReplicaPace(rates, self._step_s))
        plan = self._fitting(lanes, order, now, rates, kept)
        if plan is None or all(self._lanes[key].adapter_set is None for key in plan.keys):
            return plan
        return self._with_adapters(plan, lanes, order, now, rates, kept)

    def commit(self, plan: StepPlan, started_s: float, now: float, *, typical: bool = True) -> list[Lane]:
        """Advance the plan's lanes (those cancelled meanwhile are passed over); answers the finished, dropped.

        A step that was not ``typical`` of what it held, say, broken off and begun again, teaches nothing.
        """
        took_s = now - started_s
        self._patched = plan.patched.key if plan.patched is not None else None
        self._relax()
        if typical:
            self._cost.observe(plan.work, took_s - plan.extra_s)
            self._step_s = took_s if self._step_s == 0 else 0.8 * self._step_s + 0.2 * took_s
        finished = []
        for key, step in zip(plan.keys, plan.steps, strict=True):
            lane = self._lanes.get(key)
            if lane is None or lane.next_step != step:
                continue
            lane.started_s = started_s if lane.started_s is None else lane.started_s
            lane.next_step += 1
            if lane.next_step >= len(lane.work):
                finished.append(self._lanes.pop(key))
        return finished

    def check(self) -> None:
        """Raise AssertionError when an invariant of this state is broken."""
        for key, lane in self._lanes.items():
            assert key == lane.key, f"lane {lane.key} is filed under {key}"
            assert 0 <= lane.next_step < lane.steps, f"lane {key} stands at step {lane.next_step} of {lane.steps}"

    def _fitting(
        self, lanes: Sequence[Lane], order: Sequence[int], now: float, rates: Rates, kept: Container[str]
    ) -> StepPlan | None:
        """Lanes in order, but for the paused, for as long as the step keeps to the limits and to everybody's pace."""
        limits = self.limits
        most_rows, most_s = limits.max_rows or float("inf"), limits.seconds(rates)
        row_s, pair_s, constant_s = rates.row_s, rates.pair_s, rates.constant_s
        keys: list[str] = []
        steps: list[int] = []
        rows, pairs, seconds = 0, 0, constant_s
        running: set[str] = set()
        for index in order:
            lane = lanes[index]
            number = lane.next_step
            is_suspect = number < lane.suspect_until  # lane.is_suspect, without a call for each of thousands
            if lane.is_paused or (keys and is_suspect):
                continue  # a suspect waits until it is first, and then has the step to itself
            step = lane.work[number]
            if lane.shared:
                missing = [key for key in lane.shared[number] if key not in running and key not in kept]
                step = sum((lane.shared[number][key] for key in missing), step)
                running.update(missing)
            rows += step.rows
            own_s = step.rows * row_s + step.pairs * pair_s
            seconds += own_s
            if lane.deadline_s is not None:
                pace_s = PACE * (lane.deadline_s - now) / (len(lane.work) - number)
                if pace_s > constant_s + own_s:  # else it is late whoever runs beside it
                    most_s = min(most_s, pace_s)
            if keys and (rows > most_rows or seconds > most_s):
                rows -= step.rows
                break  # skipping ahead to smaller lanes would starve a large one
            pairs += step.pairs
            keys.append(lane.key)
            steps.append(number)
            if is_suspect:
                break
        return StepPlan(tuple(keys), tuple(steps), StepWork(rows, pairs)) if keys else None

    def _with_adapters(
        self,
        plan: StepPlan,
        lanes: Sequence[Lane],
        order: Sequence[int],
        now: float,
        rates: Rates,
        kept: Container[str],
    ) -> StepPlan:
        """The plan with all sets grouped, or in its place one of the lanes that have the first one's set, patched."""
        chosen = [self._lanes[key] for key in plan.keys]
        seen = [LoraLane(lane.adapter_set, lane.work[lane.next_step], lane.steps_left) for lane in chosen]
        costs = self._adapter_rates
        pays = self._adapters is LoraMode.AUTO and patching_pays(seen, self._patched, rates, costs)
        if self._steps_grouped or (self._adapters is not LoraMode.PATCHED and not pays):
            return replace(plan, extra_s=grouped_extra_s(seen, costs))
        first = seen[0].adapters
        same = [i for i in order if lanes[i].adapter_set == first]
        alike = self._fitting(lanes, same, now, rates, kept) or plan
        swap_s = 0.0 if first is None or first.key == self._patched else costs.swap_s(first)
        return replace(alike, patched=first, extra_s=swap_s)

    def _relax(self) -> None:
        """Raise a limit that memory set, once in a while, and let sets be patched again."""
        self._steps_grouped = max(0, self._steps_grouped - 1)
        if self._memory_rows is None:
            return
        self._steps_to_relax -= 1
        if self._steps_to_relax <= 0:
            grown = self._memory_rows + max(1, self._memory_rows // 4)
            self._memory_rows = grown if grown < MOST_ROWS else None
            self._steps_to_relax = RELAX_STEPS

    def _set_paused(self, key: str, paused: bool) -> bool:
        if key not in self._lanes:
            return False
        self._lanes[key].is_paused = paused
        return True
