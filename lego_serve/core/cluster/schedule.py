"""The list schedule behind every promise: when each job would end if workers took them in order of deadline.

It is pre-emptive between steps: a started job keeps its worker only from jobs whose deadline is not before it could
end.  Laws: a worker's seconds are given once; a started job stays where it is; models that a worker lacks are copied
first, beside what runs there; a job that would be late takes two workers where it may; the same input gives the same
schedule.
"""

import heapq
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lego_serve.core.cluster.state import Job, Lane

LATE_S = 1e-9
NEVER = float("inf")


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


def end_if_kept(
    seconds: Sequence[float],
    deadlines_s: Sequence[float],
    free_s: list[float],
    place: int,
    newcomer: tuple[float, float],
) -> float | None:
    """When a newcomer of these seconds and deadline ends at its place in the order; None if anybody is late then.

    The same answer as the schedule's where all workers are alike and nobody is bound, in a tenth of the time.
    """
    heapq.heapify(free_s)
    replace = heapq.heapreplace
    for each_s, deadline_s in zip(seconds[:place], deadlines_s[:place], strict=True):
        end = free_s[0] + each_s
        if end > deadline_s:
            return None
        replace(free_s, end)
    eta_s = free_s[0] + newcomer[0]
    if eta_s > newcomer[1]:
        return None
    replace(free_s, eta_s)
    for each_s, deadline_s in zip(seconds[place:], deadlines_s[place:], strict=True):
        end = free_s[0] + each_s
        if end > deadline_s:
            return None
        replace(free_s, end)
    return eta_s


class WaitingList:
    """The admitted jobs that have not started, in order of deadline, with what a schedule asks of each."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._keys: list[tuple[float, int]] = []
        self.seconds: list[float] = []
        self.deadlines_s: list[float] = []
        self.sets: Counter[frozenset[str]] = Counter()  # of models

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
        self._lanes.insert(place, lane)
        self._keys.insert(place, (lane.job.deadline_s, lane.job.id))
        self.seconds.insert(place, lane.left_s)
        self.deadlines_s.insert(place, lane.job.deadline_s)
        self.sets[lane.job.work.models] += 1

    def remove(self, lane: Lane) -> None:
        """Let a lane go."""
        place = self.place(lane.job)
        for each in (self._lanes, self._keys, self.seconds, self.deadlines_s):
            del each[place]
        models = lane.job.work.models
        self.sets[models] -= 1
        if not self.sets[models]:
            del self.sets[models]
