"""Times of several sides measured in turn, so that whatever else the machine does slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Runs = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The median of some numbers and the range of their middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Quartiles":
        """Return the quartiles of two numbers or more."""
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """Return ``median (low to high)``, each times ``scale``."""
        median, low, high = (f"{number * scale:.{digits}f}" for number in (self.median, self.low, self.high))
        return f"{median} ({low} to {high})"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to measure: at least so many rounds, and at least so many seconds."""

    rounds: int = 7
    least_s: float = 1.0


def take_turns(runs: Runs, device: torch.device, patience: Patience) -> dict[str, list[float]]:
    """Return the seconds of every run in every round, after one round to warm up."""
    for run in runs.values():
        run()
    _wait(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    end_s = time.perf_counter() + patience.least_s
    rounds = 0
    while rounds < patience.rounds or time.perf_counter() < end_s:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            _wait(device)
            times[name].append(time.perf_counter() - started)
        rounds += 1
    return times


def ratios(over: Sequence[float], under: Sequence[float]) -> Quartiles:
    """Return the ratio of two sides, taken round by round."""
    return Quartiles.of([a / b for a, b in zip(over, under, strict=True)])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
