"""How far calls take longer than estimated, and what to keep free before a deadline for it."""

import math

MEMORY = 0.98  # weight of the past against the next call
SURENESS = 1.3  # standard deviations that are kept free


class Pace:
    """A running mean and variance of the seconds by which calls exceed their estimates."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._square = 0.0

    def ended(self, estimated_s: float, taken_s: float) -> None:
        """Hear of a call."""
        excess = taken_s - estimated_s
        if abs(excess) < 1e-9:
            excess = 0.0
        self._mean_s = MEMORY * self._mean_s + (1.0 - MEMORY) * excess
        self._square = MEMORY * self._square + (1.0 - MEMORY) * excess * excess

    def padding_s(self, calls: int) -> float:
        """The seconds by which a job of so many calls may well be late; 0 where estimates hold."""
        if not self._square:
            return 0.0
        variance = max(0.0, self._square - self._mean_s * self._mean_s)
        return max(0.0, calls * self._mean_s + SURENESS * math.sqrt(calls * variance))
