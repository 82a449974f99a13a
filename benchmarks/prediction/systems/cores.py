"""Cores that simulated computations share: processor sharing, slower in company than alone."""

from collections.abc import Callable
from dataclasses import dataclass

from lego_serve.sim.engine import Engine

EPSILON_S = 1e-9


@dataclass(slots=True)
class _Running:
    left_s: float  # alone on its cores
    threads: int
    crowding: float
    then: Callable[[], None]


class Cores:
    """So many cores; a computation of several threads takes as many, and all slow down alike where they are too few."""

    def __init__(self, engine: Engine, cores: int) -> None:
        self._engine, self._cores = engine, cores
        self._running: list[_Running] = []
        self._since_s = 0.0
        self._version = 0
        self.busy_s = 0.0  # core seconds of work alone that were done

    def run(self, seconds: float, then: Callable[[], None], *, threads: int = 1, crowding: float = 0.0) -> None:
        """Compute what takes so many seconds alone, then call back."""
        self._advance()
        self._running.append(_Running(seconds, threads, crowding, then))
        self._plan()

    def _speed(self, each: _Running, wanted: int) -> float:
        """Return the seconds of work alone that a computation does in one second."""
        others = min(wanted, self._cores) - min(each.threads, self._cores)
        return min(1.0, self._cores / wanted) / (1.0 + each.crowding * others)

    def _advance(self) -> None:
        passed_s = self._engine.now - self._since_s
        self._since_s = self._engine.now
        if passed_s > 0.0 and self._running:
            wanted = sum(each.threads for each in self._running)
            for each in self._running:
                done_s = passed_s * self._speed(each, wanted)
                each.left_s -= done_s
                self.busy_s += done_s

    def _plan(self) -> None:
        """Have the engine come back when the first computation ends, if nothing else begins before."""
        self._version += 1
        if self._running:
            wanted = sum(each.threads for each in self._running)
            first_s = min(max(0.0, each.left_s) / self._speed(each, wanted) for each in self._running)
            self._engine.after(first_s, self._end, self._version)

    def _end(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        ended = [each for each in self._running if each.left_s <= EPSILON_S]
        self._running = [each for each in self._running if each.left_s > EPSILON_S]
        self._plan()
        for each in ended:
            each.then()
