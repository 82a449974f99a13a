"""Continuous batching at step granularity: which lanes run in the next forward pass.

A lane joins at any step and leaves when its steps are done.  The planner never touches a tensor
and the runner never chooses.  Keys are never used twice.  Invariants: a lane's next step lies in
[0, steps); a plan's rows keep to the budget unless it holds a single lane; whatever the order puts
first runs, so that nothing starves that the order does not starve.
"""

from dataclasses import dataclass

from lego_serve.core.costs import StepCost
from lego_serve.core.ordering import Order


@dataclass(slots=True)
class Lane:
    """One image being denoised: where it stands and what it weighs; its tensors live in the engine."""

    key: str
    steps: int
    rows: int
    added_s: float
    deadline_s: float | None = None
    weight: float = 1.0
    next_step: int = 0
    started_s: float | None = None

    @property
    def steps_left(self) -> int:
        """Forward passes it still needs."""
        return self.steps - self.next_step

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.next_step >= self.steps


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The lanes of one forward pass, each with the step it takes."""

    keys: tuple[str, ...]
    steps: tuple[int, ...]
    rows: int


class StepBatcher:
    """The lanes waiting and running in one replica."""

    def __init__(self, order: Order, max_rows: int) -> None:
        self._order = order
        self._max_rows = max_rows
        self._lanes: dict[str, Lane] = {}
        self._cost = StepCost()

    @property
    def lanes(self) -> int:
        """Lanes in hand."""
        return len(self._lanes)

    def add(self, lane: Lane) -> None:
        """Take a lane; it may run from the next plan on.  ValueError when the key is known or nothing is to do."""
        if lane.key in self._lanes:
            raise ValueError(f"lane {lane.key} is already here")
        if lane.is_finished or lane.rows <= 0 or lane.weight <= 0:
            raise ValueError(f"lane {lane.key} has {lane.steps_left} steps, {lane.rows} rows, weight {lane.weight}")
        self._lanes[lane.key] = lane

    def cancel(self, key: str) -> bool:
        """Drop a lane; False when it is not here."""
        return self._lanes.pop(key, None) is not None

    def plan(self, now: float) -> StepPlan | None:
        """What runs next: lanes in order for as long as they fit; None when there is nothing to do."""
        lanes = list(self._lanes.values())
        if not lanes:
            return None
        chosen: list[Lane] = []
        rows = 0
        full = min(self._max_rows, sum(lane.rows for lane in lanes))
        for index in self._order(lanes, now, self._cost.seconds(full)):
            lane = lanes[index]
            if chosen and rows + lane.rows > self._max_rows:
                break  # skipping ahead to smaller lanes would starve a large one
            chosen.append(lane)
            rows += lane.rows
        return StepPlan(tuple(c.key for c in chosen), tuple(c.next_step for c in chosen), rows)

    def commit(self, plan: StepPlan, started_s: float, now: float) -> list[Lane]:
        """Advance the plan's lanes (those cancelled meanwhile are passed over); answers the finished, dropped."""
        self._cost.observe(plan.rows, now - started_s)
        finished = []
        for key, step in zip(plan.keys, plan.steps, strict=True):
            lane = self._lanes.get(key)
            if lane is None or lane.next_step != step:
                continue
            lane.started_s = started_s if lane.started_s is None else lane.started_s
            lane.next_step += 1
            if lane.is_finished:
                finished.append(self._lanes.pop(key))
        return finished

    def check(self) -> None:
        """Raise AssertionError when an invariant of this state is broken."""
        for key, lane in self._lanes.items():
            assert key == lane.key, f"lane {lane.key} is filed under {key}"
            assert 0 <= lane.next_step < lane.steps, f"lane {key} stands at step {lane.next_step} of {lane.steps}"
