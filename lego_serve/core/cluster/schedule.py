"""The list schedule behind every promise: when each job would end if workers took them in order of deadline.

It is pre-emptive between steps: a started job keeps its worker only from jobs whose deadline is not before it could
end.  Laws: a worker's seconds are given once; a started job stays where it is; models that a worker lacks are copied
first, beside what runs there; a job that would be late takes two workers where it may; the same input gives the same
schedule.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lego_serve.core.cluster.state import Job, Lane

LATE_S = 1e-9
NEVER = float("inf")
# Jobs between two places of a waiting list at which it remembers when workers are free: of those that one newcomer goes
# through, for which remembering costs time, and those where newcomers stand.
FAR, NEAR = 128, 16


class Split(NamedTuple):
    """What is left of a job that a second worker may help: its steps on one and on two, and what it does alone."""

    encode_s: float
    steps: int
    step_s: float
    split_step_s: float
    decode_s: float

    def ends_s(self, start_s: float, helper_s: float) -> float:
        """When it ends if it starts then and a helper is there from its first step on after that other time."""
        at_s = start_s + self.encode_s
        alone = min(self.steps, max(0, math.ceil((helper_s - at_s) / self.step_s - 1e-9)))
        return at_s + alone * self.step_s + (self.steps - alone) * self.split_step_s + self.decode_s


class Entry(NamedTuple):
    """A job in a schedule: the order of its turn, its deadline, seconds, and the worker it is bound to, if any."""

    key: float
    number: int
    deadline_s: float
    seconds: float
    bound: int | None  # an index into the slots
    ready_s: Sequence[float] | None  # by slot, when its models are there; None: now on all
    split: Split | None = None  # where a second worker may help


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each entry ends and where, and the index of the first that is late, after which there may be none."""

    ends_s: list[float]
    slots: list[int]
    late: int | None


class Slots:
    """When each slot is free, and where a job could begin first; a slot is never free sooner than it was before.

    The slots are in a heap by when they were free as they were looked at last: only its head need be looked at again.
    """

    def __init__(self, free_s: Sequence[float]) -> None:
        self.free_s = list(free_s)
        self._heap = [(each_s, slot) for slot, each_s in enumerate(self.free_s)]
        heapq.heapify(self._heap)

    def soonest(self, ready_s: Sequence[float] | None = None) -> int:
        """The slot on which a job could begin first, whose models are there at these times; None: now on all."""
        heap, free = self._heap, self.free_s
        looked_s, slot = heap[0]
        while free[slot] != looked_s:
            heapq.heapreplace(heap, (free[slot], slot))
            looked_s, slot = heap[0]
        if ready_s is None or ready_s[slot] <= looked_s:
            return slot  # it is free before all others, and no load keeps it
        starts = [a if a > b else b for a, b in zip(free, ready_s, strict=True)]
        return starts.index(min(starts))

    def help(self, split: Split, slot: int, deadline_s: float, ready_s: Sequence[float] | None) -> float | None:
        """Have the soonest other slot help a job if that job ends in time so; when it ends then."""
        free = self.free_s
        able = [each for each in range(len(free)) if each != slot and (ready_s is None or ready_s[each] <= free[each])]
        helper = min(able, key=free.__getitem__, default=None)
        if helper is None or free[helper] == NEVER:
            return None
        end = split.ends_s(free[slot], free[helper])
        if end > deadline_s + LATE_S:
            return None
        free[helper] = end - split.decode_s
        heapq.heappush(self._heap, (free[helper], helper))  # rounding may have made that sooner than it was
        return end


def list_schedule(entries: Sequence[Entry], free_s: Sequence[float], *, stops: bool = True) -> Schedule:
    """Place the entries, which are sorted, on slots that are free at these times; stop at the first late one."""
    slots = Slots(free_s)
    free, soonest = slots.free_s, slots.soonest
    ends: list[float] = []
    where: list[int] = []
    late: int | None = None
    for _, _, deadline_s, seconds, bound, ready_s, split in entries:
        if bound is None:
            slot = soonest(ready_s)
            if ready_s is not None and ready_s[slot] > free[slot]:
                free[slot] = ready_s[slot]
        else:
            slot = bound
        end = free[slot] + seconds
        is_late = end > deadline_s + LATE_S
        if is_late and split is not None and end < NEVER:
            helped = slots.help(split, slot, deadline_s, ready_s)
            is_late, end = helped is None, end if helped is None else helped
        free[slot] = end
        ends.append(end)
        where.append(slot)
        if is_late and late is None:
            late = len(ends) - 1
            if stops:
                break
    return Schedule(ends, where, late)


def late_ones(entries: Sequence[Entry], free_s: Sequence[float]) -> list[int]:
    """The indexes of all entries that end late where nobody stops for that."""
    ends_s = list_schedule(entries, free_s, stops=False).ends_s
    return [
        index
        for index, (entry, end_s) in enumerate(zip(entries, ends_s, strict=True))
        if end_s > entry.deadline_s + LATE_S
    ]


class WaitingList:
    """The admitted jobs that have not started, in order of deadline, with what a schedule asks of each.

    Every so many jobs it remembers when workers are free then.  A newcomer goes on from there as long as nothing has
    changed before its place, so that in a burst those at the end do not go through all who came before.
    """

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._keys: list[tuple[float, int]] = []
        self.seconds: list[float] = []
        self.deadlines_s: list[float] = []
        self.sets: Counter[frozenset[str]] = Counter()  # of models
        self._known_from_s: list[float] = []  # when workers are free at first, for what is known below
        self._known_at: list[int] = []  # places that all before are in time for
        self._known_s: list[list[float]] = []  # when workers are free there, each a heap

    def __len__(self) -> int:
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    def head(self, count: int) -> list[Lane]:
        """The first ones."""
        return self._lanes[:count]

    def place(self, job: Job) -> int:
        """Where a job is, or would be."""
        return bisect_left(self._keys, (job.deadline_s, job.id))

    def add(self, lane: Lane) -> None:
        """Take a lane at its place."""
        place = self.place(lane.job)
        self._forget_after(place)
        self._lanes.insert(place, lane)
        self._keys.insert(place, (lane.job.deadline_s, lane.job.id))
        self.seconds.insert(place, lane.left_s)
        self.deadlines_s.insert(place, lane.job.deadline_s)
        self.sets[lane.job.work.models] += 1

    def remove(self, lane: Lane) -> None:
        """Let a lane go."""
        place = self.place(lane.job)
        self._forget_after(place)
        for each in (self._lanes, self._keys, self.seconds, self.deadlines_s):
            del each[place]
        models = lane.job.work.models
        self.sets[models] -= 1
        if not self.sets[models]:
            del self.sets[models]

    def end_if_kept(self, free_s: list[float], place: int, newcomer: tuple[float, float]) -> float | None:
        """When a newcomer of these seconds and deadline ends at its place in the order; None if anybody is late then.

        The same answer as the schedule's where all workers are alike and nobody is bound, in a tenth of the time.
        """
        heap = self._free_at(place, free_s)
        eta_s = NEVER if heap is None else heap[0] + newcomer[0]
        if heap is None or eta_s > newcomer[1]:
            return None
        heapq.heapreplace(heap, eta_s)
        return eta_s if self._are_kept(heap, place, len(self._lanes)) else None

    def _free_at(self, place: int, free_s: list[float]) -> list[float] | None:
        """When workers are free before the job at a place, as a heap; None if one before it is late."""
        if free_s != self._known_from_s:
            self._known_from_s = list(free_s)
            heapq.heapify(free_s)
            self._known_at, self._known_s = [0], [free_s]
        index = bisect_right(self._known_at, place) - 1
        at, heap = self._known_at[index], list(self._known_s[index])
        while at < place:
            until = min(place, at + FAR)
            if not self._are_kept(heap, at, until):
                return None
            at = until
            if at >= self._known_at[-1] + NEAR:
                self._known_at.append(at)
                self._known_s.append(list(heap))
        return heap

    def _are_kept(self, heap: list[float], begin: int, end: int) -> bool:
        """Have workers, which are free at these times, take jobs; whether all end in time."""
        replace = heapq.heapreplace
        for seconds, deadline_s in zip(self.seconds[begin:end], self.deadlines_s[begin:end], strict=True):
            end_s = heap[0] + seconds
            if end_s > deadline_s:
                return False
            replace(heap, end_s)
        return True

    def _forget_after(self, place: int) -> None:
        known = bisect_right(self._known_at, place)
        del self._known_at[known:], self._known_s[known:]
