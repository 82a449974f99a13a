"""Lets one thread of a process compute at a time, the most urgent first.

The models of a shared worker have a thread each, which hand over between steps and between batches: together they are
one compute thread, so that two models never halve each other's pace.  A branch of another replica's lane never waits
for a turn: whoever asks for it holds a turn of its own process, and two that waited for each other would wait for ever.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count


class ComputeTurns:
    """A lock that goes to the waiting thread of the least ``due_s``; among equals to the one that came first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: dict[int, float] = {}
        self._working: set[object] = set()
        self._numbers = count()
        self._is_taken = False

    @contextmanager
    def turn(self, due_s: float) -> Iterator[None]:
        """Compute for as long as the block runs; ``due_s`` is on the clock of all who share these turns."""
        number = next(self._numbers)
        with self._condition:
            self._waiting[number] = due_s
            try:
                self._condition.wait_for(lambda: not self._is_taken and self._first() == number)
            finally:
                del self._waiting[number]
            self._is_taken = True
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def turn_if_idle(self) -> Iterator[bool]:
        """Compute as the block runs where nobody else computes, waits or works; tell the block whether it does.

        It never waits.
        """
        with self._condition:
            is_idle = not (self._is_taken or self._waiting or self._working)
            self._is_taken = self._is_taken or is_idle
        try:
            yield is_idle
        finally:
            if is_idle:
                self._give_back()

    def note_working(self, who: object, *, is_working: bool) -> None:
        """Count somebody, from now on, as one who computes or is about to, also between two turns; or no more."""
        with self._condition:
            if is_working:
                self._working.add(who)
            else:
                self._working.discard(who)

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def _give_back(self) -> None:
        with self._condition:
            self._is_taken = False
            self._condition.notify_all()

    def _first(self) -> int:
        return min(self._waiting, key=lambda number: (self._waiting[number], number))
