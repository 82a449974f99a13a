"""What is ahead of a cell: its lanes as entries of a schedule, and answers about it."""

from collections.abc import Mapping

from lego_serve.core.cluster.dispatch import urgency
from lego_serve.core.cluster.profiles import Pace
from lego_serve.core.cluster.residency import Residency
from lego_serve.core.cluster.schedule import Entry, Split, WaitingList, list_schedule
from lego_serve.core.cluster.state import Call, Lane, Worker, batch_left_s


class Outlook:
    """Reads a cell's workers and waiting jobs; ``padding_s`` stays free before deadlines, beside estimates' errors."""

    def __init__(
        self, workers: Mapping[int, Worker], waiting: WaitingList, residency: Residency, padding_s: float
    ) -> None:
        self.workers = workers
        self.waiting = waiting
        self._residency = residency
        self._padding_s = padding_s
        self.pace = Pace()
        self._dones: dict[int, tuple[Call, Lane, tuple[float, float]]] = {}
        self._ready: dict[frozenset[str], list[float] | None] = {}

    def quick_end_s(self, lane: Lane, now: float) -> float | None:
        """When a newcomer ends, without building the schedule: where workers are alike and everybody is in time."""
        models, first_s = lane.job.work.models, lane.job.deadline_s
        if self.waiting:
            first_s = min(first_s, self.waiting.deadlines_s[0])
        if not self._residency.are_everywhere((models, *self.waiting.sets)):
            return None
        padding_s = self._padding_s + self.pace.padding_s(lane.job.work.shape.steps + 1)
        free_s = []
        for worker in self.workers.values():
            known, lanes = self._dones.get(worker.id), worker.lanes
            is_known = known is not None and len(lanes) == 1 and known[1] is lanes[0] and known[0] is worker.call
            done = known[2] if known is not None and is_known and worker.until_s >= now else self._done_s(worker, now)
            if done is None or done[1] > first_s:
                return None
            free_s.append(done[0] + padding_s)
        place = self.waiting.place(lane.job)
        newcomer = (lane.left_s, lane.job.deadline_s)
        eta_s = self.waiting.end_if_kept(free_s, place, newcomer)
        if eta_s is None:
            return None
        return eta_s - padding_s

    def _done_s(self, worker: Worker, now: float) -> tuple[float, float] | None:
        """When a worker has ended what it started, and its turn in the order; None where that is not simple."""
        lanes = worker.lanes
        if not lanes:
            return worker.free_s(now), float("-inf")
        if len(lanes) > 1:
            return None
        done_s = worker.free_s(now) + lanes[0].left_s
        if done_s > lanes[0].job.deadline_s:
            return None
        found = (done_s, min(lanes[0].job.deadline_s, done_s))
        if worker.call is not None:
            self._dones[worker.id] = (worker.call, lanes[0], found)
        return found

    def schedule(self, now: float) -> tuple[list[Entry], list[float]]:
        """The entries of all lanes in the order of their turn, and when each worker's call is over."""
        self._ready.clear()
        workers = list(self.workers.values())
        free_s = [worker.free_s(now) for worker in workers]
        bound: list[Entry] = []
        for slot, worker in enumerate(workers):
            if worker.lanes:
                bound.extend(self._bound(worker, slot, free_s[slot], now))
        waiting = [self.entry(lane, now) for lane in self.waiting]
        bound.sort()
        if bound and waiting and bound[-1][:2] > waiting[0][:2]:
            return sorted([*bound, *waiting], key=lambda each: each[:2]), free_s
        return [*bound, *waiting], free_s

    def is_kept(self, worker: Worker, batch: list[Lane], now: float) -> bool:
        """Whether all that is in flight ends in time if a worker runs these lanes as one batch from now on."""
        entries, free_s = self.schedule(now)
        slot = next(index for index, each in enumerate(self.workers.values()) if each is worker)
        ids = {lane.job.id for lane in batch}
        free_s[slot] = now + batch_left_s(batch)
        rest = [entry for entry in entries if entry.number not in ids]
        return list_schedule(rest, free_s).late is None

    def _bound(self, worker: Worker, slot: int, free_s: float, now: float) -> list[Entry]:
        lanes = worker.lanes
        if len(lanes) == 1:
            lane = lanes[0]
            key = urgency(lane, free_s)
            split = _split(lane)
            ready_s = None if split is None else self._ready_s(lane.job.work.models, now)
            return [Entry(key, lane.job.id, lane.job.deadline_s, lane.left_s, slot, ready_s, split)]
        together = worker.call.lanes if worker.call is not None else ()
        entries, before_s = [], 0.0
        batch = sorted((each for each in lanes if each in together), key=lambda each: each.steps_left)
        for count, lane in enumerate(batch, start=1):
            ends_s = batch_left_s(batch[:count]) if len(batch) > 1 else lane.left_s
            key = urgency(lane, free_s)
            entries.append(Entry(key, lane.job.id, lane.job.deadline_s, ends_s - before_s, slot, None))
            before_s = ends_s
        for lane in lanes:
            if lane not in batch:
                key = urgency(lane, free_s)
                entries.append(Entry(key, lane.job.id, lane.job.deadline_s, lane.left_s, slot, None))
        return entries

    def _ready_s(self, models: frozenset[str], now: float) -> list[float] | None:
        """When each worker could have the models; the same for all entries of one schedule."""
        if models not in self._ready:
            self._ready[models] = self._residency.ready_s(models, now)
        return self._ready[models]

    def entry(self, lane: Lane, now: float) -> Entry:
        """A waiting lane, or a newcomer, as a schedule sees it."""
        job = lane.job
        ready_s = self._ready_s(job.work.models, now)
        deadline_s = job.deadline_s - self._padding_s - self.pace.padding_s(lane.steps_left + 1)
        return Entry(job.deadline_s, job.id, deadline_s, lane.left_s, None, ready_s, _split(lane))


def _split(lane: Lane) -> Split | None:
    if not lane.may_split:
        return None
    work = lane.job.work
    encode_s = 0.0 if lane.is_encoded else work.encode_s
    return Split(encode_s, lane.steps_left, work.step_s, work.split_step_s, work.decode_s)
