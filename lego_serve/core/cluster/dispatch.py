"""Which call a worker does next, decided when it is idle: late binding, between steps.

An idle worker goes on with its most urgent lane, unless a waiting job is more urgent than that lane could be late; it
takes any waiting job whose models it has, and if there is none, a paused lane of another worker.  What is then idle
helps a lane by taking one of its branches.  Laws: a worker runs one call at a time; a lane is in one call at a time;
nothing is taken from a worker while it runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lego_serve.core.cluster.parallelism import ParallelRule, may_join, split_reason, steps_of
from lego_serve.core.cluster.schedule import LATE_S, WaitingList
from lego_serve.core.cluster.state import Call, Lane, Worker
from lego_serve.core.cluster.work import batch_step_s

LOOKED_AT = 8  # waiting jobs that may join a batch
TAKEN_FROM = 64  # waiting jobs among which a worker looks for one it has the models of


@dataclass(frozen=True, slots=True)
class DispatchRule:
    """What a dispatcher may do."""

    parallel: ParallelRule = field(default_factory=ParallelRule)
    steals: bool = True
    preempts: bool = True


def urgency(lane: Lane, now: float) -> float:
    """The time by which the order of lanes goes: the deadline; a started lane's is not after it could end."""
    if lane.home is None:
        return lane.job.deadline_s
    return min(lane.job.deadline_s, now + lane.left_s)


class Dispatcher:
    """Chooses calls for the idle among ``workers`` from their lanes and from the waiting ones, which are in order."""

    def __init__(
        self,
        rule: DispatchRule,
        workers: dict[int, Worker],
        waiting: WaitingList,
        is_kept: Callable[[Worker, list[Lane], float], bool],
        move_s: float = 0.0,
    ) -> None:
        self._rule = rule
        self._is_kept = is_kept  # whether all promises hold if a worker runs these lanes as one batch
        self._workers = workers
        self._waiting = waiting
        self._move_s = move_s
        self._calls = 0
        self._crowded: list[Worker] = []  # those that run a lane while another of theirs waits
        self._hurried: list[Lane] = []

    def fill(self, now: float) -> Iterator[tuple[Call, str]]:
        """Yield a call for every idle worker that can do something, and why."""
        idle = [worker for worker in self._workers.values() if worker.call is None]
        if not idle:
            return
        self._crowded = [each for each in self._workers.values() if len(each.lanes) > 1 and each.call is not None]
        self._hurried = self._in_need(now)
        plans: list[tuple[Worker, list[Lane], float, str]] = []
        helpers: list[Worker] = []
        for worker in idle:
            plan = None if self._is_kept_for_help(worker, now) else self._choose(worker, now)
            if plan is None:
                helpers.append(worker)
            else:
                plans.append((worker, *plan))
        for worker, lanes, moved_s, reason in plans:
            yield self._issue(worker, lanes, helpers, moved_s, reason, now)

    def _in_need(self, now: float) -> list[Lane]:
        """The lanes that run alone, or go on now, and end too late on one worker, the most urgent first."""
        hurried = []
        for worker in self._workers.values():
            call = worker.call
            lanes = worker.lanes if call is None else call.lanes
            if len(lanes) != 1 or (call is not None and len(call.workers) > 1):
                continue
            lane = lanes[0]
            ends_s = worker.free_s(now) + lane.left_s
            if lane.may_split and lane.steps_left and ends_s > lane.job.deadline_s + LATE_S:
                hurried.append(lane)
        return sorted(hurried, key=lambda lane: (lane.job.deadline_s, lane.job.id))

    def _is_kept_for_help(self, worker: Worker, now: float) -> bool:
        """Whether an idle worker had better wait for the next step of a lane that needs it."""
        helped = {each.helps for each in self._workers.values()}
        if worker.helps is not None:
            if any(lane.job.id == worker.helps for lane in self._hurried):
                return True
            worker.helps = None
        if worker.lanes:
            return False
        for lane in self._hurried:
            assert lane.home is not None
            soon = self._workers[lane.home].until_s - now <= lane.job.work.step_s
            if soon and lane.job.id not in helped and worker.has(_step_models(lane)):
                worker.helps = lane.job.id
                return True
        return False

    def _choose(self, worker: Worker, now: float) -> tuple[list[Lane], float, str] | None:
        own = self._own(worker, now)
        fresh = self._first_waiting(worker)
        if own and (fresh is None or not self._preempts(own[0], fresh, now)):
            lanes = [own[0]]
            lanes.extend(lane for lane in own[1:] if may_join(self._rule.parallel, lanes, lane, now))
            return lanes, 0.0, "goes on"
        if fresh is not None:
            self._start(worker, fresh)
            return [fresh], 0.0, "the most urgent that waits"
        return self._stolen(worker, now) if self._rule.steals else None

    def _own(self, worker: Worker, now: float) -> list[Lane]:
        own = [lane for lane in worker.lanes if lane.call is None]
        return own if len(own) < 2 else sorted(own, key=lambda lane: (urgency(lane, now), lane.job.id))

    def _preempts(self, lane: Lane, fresh: Lane, now: float) -> bool:
        return self._rule.preempts and fresh.job.deadline_s < urgency(lane, now)

    def _first_waiting(self, worker: Worker) -> Lane | None:
        for lane in self._waiting.head(TAKEN_FROM):
            if worker.has(lane.job.work.models):
                return lane
        return None

    def _start(self, worker: Worker, lane: Lane) -> None:
        self._waiting.remove(lane)
        lane.home = worker.id
        worker.lanes.append(lane)

    def _stolen(self, worker: Worker, now: float) -> tuple[list[Lane], float, str] | None:
        paused = [
            lane
            for other in self._crowded
            for lane in other.lanes
            if lane.call is None and worker.has(lane.job.work.models)
        ]
        if not paused:
            return None
        lane = min(paused, key=lambda each: (urgency(each, now), each.job.id))
        assert lane.home is not None
        self._workers[lane.home].lanes.remove(lane)
        lane.home = worker.id
        worker.lanes.append(lane)
        return [lane], self._move_s, "taken from a busy worker"

    def _issue(
        self, worker: Worker, lanes: list[Lane], helpers: list[Worker], moved_s: float, reason: str, now: float
    ) -> tuple[Call, str]:
        rule = self._rule.parallel
        if self._waiting:
            self._join(worker, lanes, now)
        workers = [worker]
        lane = lanes[0]
        able = self._able(lane, helpers)
        idle = len(able) or self._soon_idle(worker, lane, now)
        why = split_reason(rule, lane, idle, len(self._workers), now) if len(lanes) == 1 else None
        if why is not None and lane.is_encoded and lane.steps_left:
            helper = able[0]
            helpers.remove(helper)
            helper.helps = None
            workers.append(helper)
            return self._call(workers, lanes, lane.job.work.split_step_s, 1, moved_s, now), why
        if why is not None and not lane.is_encoded:
            if lane.may_split and able:
                able[0].helps = lane.job.id
            return self._call(workers, lanes, 0.0, 0, moved_s, now), "its prompts before it is split"
        if rule.pairs or lane.job.work.shape.branches == 1:
            step_s = batch_step_s([each.job.work for each in lanes])
        else:
            step_s = sum(2.0 * each.job.work.split_step_s for each in lanes)
        steps = steps_of(rule, lanes, step_s) if lane.steps_left else 0
        return self._call(workers, lanes, step_s, steps, moved_s, now), reason

    def _able(self, lane: Lane, helpers: list[Worker]) -> list[Worker]:
        """The idle workers that may take a branch of a lane: one that waits for it, else those that wait for none."""
        models = _step_models(lane)
        own = [each for each in helpers if each.helps == lane.job.id]
        return own or [each for each in helpers if each.helps is None and each.has(models)]

    def _soon_idle(self, worker: Worker, lane: Lane, now: float) -> int:
        """Whether another worker could help a lane that needs it once its prompts are encoded."""
        if not lane.may_split or lane.is_encoded or now + lane.left_s <= lane.job.deadline_s:
            return 0
        encoded_s = now + lane.job.work.encode_s
        return int(any(each.free_s(now) <= encoded_s for each in self._workers.values() if each is not worker))

    def _join(self, worker: Worker, lanes: list[Lane], now: float) -> None:
        for lane in self._waiting.head(LOOKED_AT):
            if not worker.has(lane.job.work.models) or not may_join(self._rule.parallel, lanes, lane, now):
                continue
            if self._is_kept(worker, [*lanes, lane], now):
                lanes.append(lane)
                self._start(worker, lane)

    def _call(
        self, workers: list[Worker], lanes: list[Lane], step_s: float, steps: int, moved_s: float, now: float
    ) -> Call:
        encodes = tuple(lane for lane in lanes if not lane.is_encoded)
        is_shared = len(workers) > 1  # the helper does not wait for the image to be decoded
        decodes = () if is_shared else tuple(lane for lane in lanes if lane.steps_left == steps)
        seconds = moved_s + steps * step_s
        seconds += sum(lane.job.work.encode_s for lane in encodes) + sum(lane.job.work.decode_s for lane in decodes)
        self._calls += 1
        call = Call(self._calls, tuple(w.id for w in workers), tuple(lanes), steps, encodes, decodes, seconds)
        for worker in workers:
            worker.call, worker.until_s = call, now + seconds
        for lane in lanes:
            lane.call = call.id
            lane.is_encoded = True
            lane.steps_left -= steps
        return call


def _step_models(lane: Lane) -> frozenset[str]:
    shape = lane.job.work.shape
    return frozenset(m for m in (shape.backbone, *shape.controlnets) if m in lane.job.work.models)
