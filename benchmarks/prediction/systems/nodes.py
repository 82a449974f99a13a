"""A node of a simulated server that computes what waits in batches, first come first served: an encoder, a decoder."""

from collections.abc import Callable

from benchmarks.prediction.costs import Amount
from benchmarks.prediction.systems.cores import Cores
from lego_serve.sim.engine import Engine

Done = Callable[[float], None]  # gets the seconds that its batch took


class SimulatedNode:
    """One thread of its own on the shared cores."""

    def __init__(self, engine: Engine, cores: Cores, cost: Amount, crowding: float, max_batch: int) -> None:
        self._engine, self._cores, self._cost, self._crowding = engine, cores, cost, crowding
        self._max_batch = max_batch
        self._waiting: list[tuple[float, Done]] = []
        self._is_busy = False

    def run(self, units: float, done: Done) -> None:
        """Compute an item of so many units."""
        self._waiting.append((units, done))
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        self._is_busy = bool(batch)
        if not batch:
            return
        began_s = self._engine.now

        def ended() -> None:
            took_s = self._engine.now - began_s
            self._next()
            for _, done in batch:
                done(took_s)

        seconds = self._cost.seconds(sum(units for units, _ in batch))
        self._cores.run(seconds, ended, crowding=self._crowding)
