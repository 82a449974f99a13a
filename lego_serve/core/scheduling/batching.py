"""Continuous batching at step granularity: chooses the lanes of the next forward pass.

A lane joins at any step and leaves when its steps are done.  The planner never touches a tensor and the runner never
chooses.  Keys are never used twice.  Invariants: a lane's next step lies in [0, steps); a plan keeps to the limits
unless it has a single lane; a suspect lane runs alone; a paused lane does not run; of the tenant whose turn it is, the
lane that the policy puts first runs, so that a lane starves only if the policy starves it; while all lanes are one
tenant's, the policy alone decides; a lane does not join a step that would become too long for the deadline of a lane in
it.
"""

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from lego_serve.core.costs import Rates, StepCost, StepWork
from lego_serve.core.scheduling.fairness import FairShares, step_part
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

EFFICIENCY = 0.9  # fraction of a step's seconds that rows and pairs should take, the rest being its constant cost
DEADLINE_MARGIN = 0.9  # fraction of the seconds a lane has left per step that a shared step may take
FULL_USE_ROWS = 1024  # from here on a forward pass of any model measured makes full use of a CPU core
FULL_USE_PAIRS = 256 * 1024
RELAX_STEPS = 200
NO_LIMIT_ROWS = 2**24  # a memory limit that has grown to this is removed


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The lanes of one forward pass, the step each takes, and their work together.

    ``patched``: the adapter set of all these lanes, if it is to be patched into the weights, not grouped.
    ``extra_s``: the predicted seconds that adapters add to the step.
    """

    keys: tuple[str, ...]
    steps: tuple[int, ...]
    work: StepWork
    patched: AdapterSet | None = None
    extra_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Limits of one forward pass: predicted seconds, and token rows if memory bounds them.

    Without ``max_step_s`` a step may grow until rows and pairs take EFFICIENCY of its seconds, and in any case up to
    FULL_USE_ROWS rows and FULL_USE_PAIRS pairs.
    """

    max_step_s: float | None = None
    max_rows: int | None = None

    def seconds(self, rates: Rates) -> float:
        """Return the predicted seconds that a step may take at these rates."""
        if self.max_step_s is not None:
            return self.max_step_s
        return max(rates.constant_s / (1 - EFFICIENCY), rates.seconds(FULL_USE_ROWS, FULL_USE_PAIRS))


class StepBatcher:
    """The lanes of one replica, and the plans of its steps."""

    def __init__(
        self,
        policy: LanePolicy,
        limits: StepLimits,
        calibrated: Rates | None = None,
        adapters: LoraMode = LoraMode.GROUPED,
        adapter_rates: AdapterRates | None = None,
    ) -> None:
        self._policy = policy
        self._adapters, self._adapter_rates = adapters, adapter_rates or AdapterRates()
        self._patched: Hashable = None
        self._limits = limits
        self._memory_rows: int | None = None
        self._steps_to_relax = 0
        self._steps_grouped = 0  # steps until patching is tried again
        self._lanes: dict[str, Lane] = {}
        self._shares = FairShares()
        self._cost = StepCost(calibrated)
        self._step_s = 0.0  # recent mean seconds of a step

    @property
    def lanes(self) -> int:
        """The number of lanes."""
        return len(self._lanes)

    @property
    def limits(self) -> StepLimits:
        """The current limits of a step."""
        if self._memory_rows is None:
            return self._limits
        return StepLimits(self._limits.max_step_s, min(self._memory_rows, self._limits.max_rows or self._memory_rows))

    @property
    def rates(self) -> Rates:
        """The current rates of a step."""
        return self._cost.rates

    def add(self, lane: Lane) -> None:
        """Add a lane; it may run from the next plan on.  Raises ValueError for a known key or a lane without work."""
        if lane.key in self._lanes:
            raise ValueError(f"lane {lane.key} is already here")
        min_rows = min((step.rows for step in lane.work), default=0)
        if lane.is_finished or lane.next_step < 0 or min_rows <= 0 or lane.weight <= 0:
            raise ValueError(f"lane {lane.key} has {lane.steps_left} steps of {min_rows} rows and weight {lane.weight}")
        self._lanes[lane.key] = lane

    def cancel(self, key: str) -> bool:
        """Remove a lane; return False for an unknown key."""
        return self._lanes.pop(key, None) is not None

    def pause(self, key: str) -> bool:
        """Stop running a lane until ``resume``; return False for an unknown key."""
        return self._set_paused(key, True)

    def resume(self, key: str) -> bool:
        """Let a paused lane continue from its next step; return False for an unknown key."""
        return self._set_paused(key, False)

    def is_suspect(self, key: str) -> bool:
        """Return whether a lane must run its next step alone; False for an unknown key."""
        return key in self._lanes and self._lanes[key].is_suspect

    def set_adapters(
        self, key: str, adapters: tuple[AdapterSet | None, ...], shared: tuple[Mapping[str, StepWork], ...] = ()
    ) -> None:
        """Replace a lane's adapter sets, and the work it shares under them.  Raises KeyError for an unknown key."""
        self._lanes[key].adapters, self._lanes[key].shared = adapters, shared

    def limit_rows(self, max_rows: int) -> None:
        """Limit the rows of steps with more than one lane, since memory ran out above this.

        Another process may have used the memory then: every RELAX_STEPS steps the limit grows by a quarter.
        """
        self._memory_rows = max(1, max_rows)
        self._steps_to_relax = RELAX_STEPS

    def group_adapters(self) -> None:
        """Group all sets for RELAX_STEPS steps, whatever the mode, since memory ran out in patching."""
        self._steps_grouped = RELAX_STEPS

    def plan(self, now: float, cached: Container[str] = ()) -> StepPlan | None:
        """Return the next step: lanes in the policy's order for as long as they fit; None if no lane can run.

        ``cached``: the keys of shared work that need not run again.
        """
        lanes = list(self._lanes.values())
        rates = self._cost.rates
        order = self._in_turn(lanes, self._policy(lanes, now, ReplicaPace(rates, self._step_s)))
        plan = self._fitting(lanes, order, now, rates, cached)
        if plan is None or all(self._lanes[key].adapter_set is None for key in plan.keys):
            return plan
        return self._with_adapters(plan, lanes, order, now, rates, cached)

    def commit(self, plan: StepPlan, started_s: float, now: float, *, typical: bool = True) -> list[Lane]:
        """Advance the plan's lanes, except those cancelled meanwhile; remove the finished ones and return them.

        A step that is not ``typical``, such as one that was broken off and begun again, does not refine the rates.
        """
        took_s = now - started_s
        self._patched = plan.patched.key if plan.patched is not None else None
        self._relax()
        if typical:
            self._cost.observe(plan.work, took_s - plan.extra_s)
            self._step_s = took_s if self._step_s == 0 else 0.8 * self._step_s + 0.2 * took_s
        self._charge(plan)
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
        """Raise AssertionError if an invariant of this state is broken."""
        for key, lane in self._lanes.items():
            assert key == lane.key, f"lane {lane.key} is filed under {key}"
            assert 0 <= lane.next_step < lane.steps, f"lane {key} stands at step {lane.next_step} of {lane.steps}"

    def _in_turn(self, lanes: Sequence[Lane], order: Sequence[int]) -> Sequence[int]:
        """Return an order of lanes by turns of their tenants, without the paused; as it is where there is only one."""
        if len({lane.tenant for lane in lanes}) < 2:
            return order
        runnable = [index for index in order if not lanes[index].is_paused]
        return self._shares.order(runnable, lambda index: lanes[index].tenant, lambda index: lanes[index].cost)

    def _max_seconds(self, lanes: Sequence[Lane], rates: Rates) -> float:
        """Return the predicted seconds that the next step may take: fewer for tenants with little work to share it."""
        limits = self.limits
        full_s = limits.seconds(rates)
        if limits.max_step_s is not None or rates.row_s <= 0 or len({lane.tenant for lane in lanes}) < 2:
            return full_s
        rows: dict[str, int] = {}
        for lane in lanes:
            if not lane.is_paused:
                rows[lane.tenant] = rows.get(lane.tenant, 0) + lane.work[lane.next_step].rows
        return full_s * step_part(rows, (full_s - rates.constant_s) / rates.row_s)

    def _charge(self, plan: StepPlan) -> None:
        """Count a step's work as its tenants' own."""
        costs: dict[str, float] = {}
        for key, step in zip(plan.keys, plan.steps, strict=True):
            lane = self._lanes.get(key)
            if lane is not None and lane.next_step == step:
                costs[lane.tenant] = costs.get(lane.tenant, 0.0) + lane.cost
        self._shares.charge(costs)

    def _fitting(
        self, lanes: Sequence[Lane], order: Sequence[int], now: float, rates: Rates, cached: Container[str]
    ) -> StepPlan | None:
        """Return a step of the lanes in order, without the paused, as long as it keeps to limits and deadlines."""
        limits = self.limits
        max_rows, max_s = limits.max_rows or float("inf"), self._max_seconds(lanes, rates)
        row_s, pair_s, constant_s = rates.row_s, rates.pair_s, rates.constant_s
        keys: list[str] = []
        steps: list[int] = []
        rows, pairs, seconds = 0, 0, constant_s
        running: set[str] = set()
        for index in order:
            lane = lanes[index]
            number = lane.next_step
            is_suspect = number < lane.suspect_until  # inlined: a property call for each of thousands of lanes is slow
            if lane.is_paused or (keys and is_suspect):
                continue  # a suspect waits until it is first, and then runs alone
            step = lane.work[number]
            if lane.shared:
                missing = [key for key in lane.shared[number] if key not in running and key not in cached]
                step = sum((lane.shared[number][key] for key in missing), step)
                running.update(missing)
            rows += step.rows
            own_s = step.rows * row_s + step.pairs * pair_s
            seconds += own_s
            if lane.deadline_s is not None:
                share_s = DEADLINE_MARGIN * (lane.deadline_s - now) / (len(lane.work) - number)
                if share_s > constant_s + own_s:  # else the lane is late even alone
                    max_s = min(max_s, share_s)
            if keys and (rows > max_rows or seconds > max_s):
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
        cached: Container[str],
    ) -> StepPlan:
        """Return the plan with all sets grouped, or a plan of the lanes with the first lane's set, patched."""
        chosen = [self._lanes[key] for key in plan.keys]
        candidates = [LoraLane(lane.adapter_set, lane.work[lane.next_step], lane.steps_left) for lane in chosen]
        costs = self._adapter_rates
        pays = self._adapters is LoraMode.AUTO and patching_pays(candidates, self._patched, rates, costs)
        if self._steps_grouped or (self._adapters is not LoraMode.PATCHED and not pays):
            return replace(plan, extra_s=grouped_extra_s(candidates, costs))
        adapters = candidates[0].adapters
        same_set = [i for i in order if lanes[i].adapter_set == adapters]
        patched_plan = self._fitting(lanes, same_set, now, rates, cached) or plan
        swap_s = 0.0 if adapters is None or adapters.key == self._patched else costs.swap_s(adapters)
        return replace(patched_plan, patched=adapters, extra_s=swap_s)

    def _relax(self) -> None:
        """Count down to the next rise of the memory limit and to the next try at patching."""
        self._steps_grouped = max(0, self._steps_grouped - 1)
        if self._memory_rows is None:
            return
        self._steps_to_relax -= 1
        if self._steps_to_relax <= 0:
            max_rows = self._memory_rows + max(1, self._memory_rows // 4)
            self._memory_rows = max_rows if max_rows < NO_LIMIT_ROWS else None
            self._steps_to_relax = RELAX_STEPS

    def _set_paused(self, key: str, paused: bool) -> bool:
        if key not in self._lanes:
            return False
        self._lanes[key].is_paused = paused
        return True
