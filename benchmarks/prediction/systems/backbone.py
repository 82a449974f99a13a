"""A backbone replica of a simulated server: the product's step batcher, over fitted seconds of a step."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.prediction.costs import ServerCosts
from benchmarks.prediction.systems.cores import Cores
from lego_serve.core.costs import StepWork
from lego_serve.core.jobs.job import TaskStats
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits, StepPlan
from lego_serve.core.scheduling.lane import Lane as BatchedLane
from lego_serve.core.scheduling.ordering import LANE_POLICIES
from lego_serve.sim.engine import Engine


@dataclass(slots=True)
class Lane:
    """An image to denoise: the work of its steps, and who hears of each step and of the end."""

    key: str
    work: tuple[StepWork, ...]
    deadline_s: float | None
    stepped: Callable[[int], None]
    ended: Callable[[TaskStats], None]
    step_s: list[float] = field(default_factory=list)
    step_lanes: list[int] = field(default_factory=list)


class SimulatedBackbone:
    """Plans steps as a replica does, and takes each on the shared cores."""

    def __init__(self, engine: Engine, cores: Cores, costs: ServerCosts, policy: str) -> None:
        self._engine, self._cores, self._costs = engine, cores, costs
        self._batcher = StepBatcher(LANE_POLICIES[policy], StepLimits(), costs.step)
        self._lanes: dict[str, Lane] = {}
        self._is_busy = False

    def add(self, lane: Lane) -> None:
        """Take a lane, which may run from the next step on."""
        self._lanes[lane.key] = lane
        self._batcher.add(BatchedLane(lane.key, lane.work, self._engine.now, lane.deadline_s))
        if not self._is_busy:
            self._step()

    def cancel(self, key: str) -> None:
        """Drop a lane; a step that it takes part in goes on."""
        self._lanes.pop(key, None)
        self._batcher.cancel(key)

    def _step(self) -> None:
        plan = self._batcher.plan(self._engine.now)
        self._is_busy = plan is not None
        if plan is not None:
            seconds, began_s = self._costs.step.seconds(plan.work.rows, plan.work.pairs), self._engine.now
            self._cores.run(seconds, lambda: self._stepped(plan, began_s), crowding=self._costs.crowding)

    def _stepped(self, plan: StepPlan, began_s: float) -> None:
        took_s = self._engine.now - began_s
        finished = self._batcher.commit(plan, began_s, self._engine.now)
        for key, step in zip(plan.keys, plan.steps, strict=True):
            lane = self._lanes.get(key)
            if lane is not None:
                lane.step_s.append(took_s)
                lane.step_lanes.append(len(plan.keys))
                lane.stepped(step + 1)
        for each in finished:
            lane = self._lanes.pop(each.key)
            lane.ended(TaskStats(step_s=tuple(lane.step_s), step_lanes=tuple(lane.step_lanes)))
        self._engine.after(self._costs.between_steps_s, self._step)
