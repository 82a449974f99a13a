"""The list schedule behind every promise: when each job would end if workers took them in order of deadline.

It is pre-emptive between steps: a started job keeps its worker only from jobs whose deadline is not before it could
end.  Laws: a worker's seconds are given once; a started job stays where it is; models that a worker lacks are copied
first, beside what runs there; the same input gives the same schedule.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

LATE_S = 1e-9
NEVER = float("inf")


class Entry(NamedTuple):
    """A job in a schedule: the order of its turn, its deadline, seconds, and the worker it is bound to, if any."""

    key: float
    number: int
    deadline_s: float
    seconds: float
    bound: int | None  # an index into the slots
    ready_s: Sequence[float] | None  # by slot, when its models are there; None: now on all
    least_s: float = NEVER  # its seconds with a second worker, where that may be


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
        free[entry.bound] += entry.seconds
        ends.append(free[entry.bound])
        slots.append(entry.bound)
        begin += 1
        if ends[-1] > entry.deadline_s + LATE_S:
            return Schedule(ends, slots, begin - 1)
    rest = entries[begin:] if begin else entries
    if all(entry.bound is None and entry.ready_s is None for entry in rest):
        return _uniform(rest, free, ends, slots)
    for index, entry in enumerate(rest, start=begin):
        slot = entry.bound if entry.bound is not None else _soonest(entry, free)
        start = free[slot] if entry.ready_s is None else max(free[slot], entry.ready_s[slot])
        free[slot] = start + entry.seconds
        ends.append(free[slot])
        slots.append(slot)
        if free[slot] > entry.deadline_s + LATE_S:
            return Schedule(ends, slots, index)
    return Schedule(ends, slots, None)


def _uniform(entries: Sequence[Entry], free: list[float], ends: list[float], slots: list[int]) -> Schedule:
    heap = [(free_s, slot) for slot, free_s in enumerate(free)]
    heapq.heapify(heap)
    for entry in entries:
        free_s, slot = heap[0]
        end = free_s + entry.seconds
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
