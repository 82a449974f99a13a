"""A circuit breaker: after a few failures in a row nothing is tried for a while but one probe at a time."""

from collections.abc import Callable
from dataclasses import dataclass

FAILURES = 3
PROBE_EVERY_S = 1.0


@dataclass(slots=True)
class Breaker:
    """Says whether a call may be made.  It is open while the other side is taken to be away."""

    clock: Callable[[], float]  # monotonic seconds
    failures: int = 0
    probed_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, a probe now and then apart."""
        return self.failures >= FAILURES

    def admits(self) -> bool:
        """Return whether a call may be made now; while open, one each PROBE_EVERY_S."""
        now = self.clock()
        if self.is_open and now - self.probed_s < PROBE_EVERY_S:
            return False
        self.probed_s = now
        return True

    def note_success(self) -> None:
        """A call was answered."""
        self.failures = 0

    def note_failure(self) -> None:
        """A call was not answered."""
        self.failures += 1
