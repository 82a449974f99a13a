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
    """When each entry ends and where, up to the first that is late; ``late`` is its index."""

    ends_s: list[float]
    slots: list[int]
    late: int | None


def list_schedule(entries: Sequence[Entry], free_s: Sequence[float]) -> Schedule:
    """Place the entries, which are sorted, on slots that are free at these times; stop at the first late one."""
    free = list(free_s)
    begin = 0
    ends: list[float] = []
    slots: list[int] = []
    for entry in entries:  # bound ones come first wherever all workers are alike
        if entry.bound is None:
            break
        ends.append(_bound(entry, entry.bound, free))
        slots.append(entry.bound)
        begin += 1
        if ends[-1] > entry.deadline_s + LATE_S:
            return Schedule(ends, slots, begin - 1)
    rest = entries[begin:] if begin else entries
    if all(entry.bound is None and entry.ready_s is None for entry in rest):
        return _uniform(rest, free, ends, slots)
    for index, entry in enumerate(rest, start=begin):
        slot = entry.bound if entry.bound is not None else _soonest(entry, free)
        if entry.bound is None and entry.ready_s is not None:
            free[slot] = max(free[slot], entry.ready_s[slot])
        ends.append(_bound(entry, slot, free))
        slots.append(slot)
        if ends[-1] > entry.deadline_s + LATE_S:
            return Schedule(ends, slots, index)
    return Schedule(ends, slots, None)


def _bound(entry: Entry, slot: int, free: list[float]) -> float:
    """Place an entry on its slot, with the help of the soonest other one if it would be late without; when it ends."""
    end = free[slot] + entry.seconds
    if entry.deadline_s + LATE_S < end < NEVER and entry.split is not None:
        helper = _helper(entry, slot, free)
        if helper is not None:
            helped = entry.split.ends_s(free[slot], free[helper])
            if helped <= entry.deadline_s + LATE_S:
                end = helped
                free[helper] = end - entry.split.decode_s
    free[slot] = end
    return end


def _helper(entry: Entry, slot: int, free: Sequence[float]) -> int | None:
    """The other slot that is free first, of those that have the models."""
    ready = entry.ready_s
    able = [each for each in range(len(free)) if each != slot and (ready is None or ready[each] <= free[each])]
    return min(able, key=free.__getitem__, default=None)


def _uniform(entries: Sequence[Entry], free: list[float], ends: list[float], slots: list[int]) -> Schedule:
    heap = [(free_s, slot) for slot, free_s in enumerate(free)]
    heapq.heapify(heap)
    for entry in entries:
        free_s, slot = heap[0]
        end = free_s + entry.seconds
        if end > entry.deadline_s + LATE_S and entry.split is not None and len(heap) > 1:
            helped = entry.split.ends_s(free_s, min(heap[1:3])[0])
            if helped <= entry.deadline_s + LATE_S:  # on the two that are free first
                end = helped
                heapq.heappop(heap)
                heapq.heapreplace(heap, (end - entry.split.decode_s, heap[0][1]))
                heapq.heappush(heap, (end, slot))
                ends.append(end)
                slots.append(slot)
                continue
        heapq.heapreplace(heap, (end, slot))
        ends.append(end)
        slots.append(slot)
        if end > entry.deadline_s + LATE_S:
            return Schedule(ends, slots, len(ends) - 1)
    return Schedule(ends, slots, None)


def _soonest(entry: Entry, free: Sequence[float]) -> int:
    if entry.ready_s is None:
        return min(range(len(free)), key=free.__getitem__)
    starts = [a if a > b else b for a, b in zip(free, entry.ready_s, strict=True)]
    return min(range(len(starts)), key=starts.__getitem__)


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
