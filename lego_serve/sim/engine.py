"""The clock of a simulation: what is to happen, in the order of time and, at one time, of its scheduling."""

import heapq
from collections.abc import Callable


class Engine:
    """Runs actions at their times; the same schedule runs in the same order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._sequence = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []

    def at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        """Schedule an action; one that is due already runs after those scheduled before it."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.now), self._sequence, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        """Schedule an action so many seconds from now."""
        self.at(self.now + seconds, action, *arguments)

    def run(self, until_s: float = float("inf")) -> None:
        """Run all actions that are due by then, also those they schedule."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now, _, action, arguments = heapq.heappop(heap)
            self.events += 1
            action(*arguments)
