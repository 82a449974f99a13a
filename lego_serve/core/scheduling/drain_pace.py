"""Predicts how long pending images will take, from the pace at which images have ended; pure, over given times.

Only time in which something was pending counts, and recent time counts most.
"""

import math

MEMORY_S = 60.0  # after so many busy seconds what was seen before counts for a third
FIRST_GUESS_S = 2.0  # before anything has ended
MIN_WAIT_S, MAX_WAIT_S = 1.0, 300.0
SPREAD = 0.4  # of the wait: clients that are told to come back do not all come at once


class DrainPace:
    """The images of one queue that are pending, and the pace at which they end."""

    def __init__(self) -> None:
        self._pending = 0
        self._ended = 0.0  # images, with what is long ago counting less
        self._busy_s = 0.0  # seconds, counted alike
        self._seen_s = 0.0

    @property
    def pending(self) -> int:
        """The pending images."""
        return self._pending

    def begin(self, images: int, now: float) -> None:
        """Images have become pending."""
        self._advance(now)
        self._pending += images

    def end(self, images: int, now: float, *, is_done: bool = True) -> None:
        """Images are no longer pending; those that were given up say nothing about the pace."""
        self._advance(now)
        self._pending -= images
        if is_done:
            self._ended += images

    def wait_s(self, now: float) -> float:
        """Return the seconds in which all that is pending now will have ended at the recent pace, unbounded."""
        self._advance(now)
        if not self._pending:
            return 0.0
        if self._ended <= 0:
            return FIRST_GUESS_S + self._busy_s
        return self._pending * self._busy_s / self._ended

    def expected_s(self, now: float) -> float | None:
        """Return the same as ``wait_s``, but no guess: None before anything has ended."""
        self._advance(now)
        seconds = self._pending * self._busy_s / self._ended if self._ended > 0 else math.inf
        return seconds if math.isfinite(seconds) else None

    def retry_after_s(self, now: float, chance: float) -> float:
        """Return when a rejected client should come back: ``chance`` (0 to 1) spreads them over the last of the wait.

        Between MIN_WAIT_S and MAX_WAIT_S.
        """
        wait_s = self.wait_s(now) * (1 - SPREAD * chance)
        return min(MAX_WAIT_S, max(MIN_WAIT_S, wait_s))

    def _advance(self, now: float) -> None:
        passed_s = max(0.0, now - self._seen_s)
        self._seen_s = max(self._seen_s, now)
        if not self._pending or not passed_s:
            return
        kept = math.exp(-passed_s / MEMORY_S)
        self._ended *= kept
        self._busy_s = self._busy_s * kept + MEMORY_S * (1 - kept)
