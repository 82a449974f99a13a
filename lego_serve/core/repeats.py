"""Bounds what is told again and again: so many of a kind in a while, then how many were left out."""

from dataclasses import dataclass

KINDS_KEPT = 256


@dataclass(slots=True)
class _Window:
    """What was told of a kind since a time, and what was left out."""

    begun_s: float
    told: int = 0
    left_out: int = 0


class RepeatLimit:
    """Decides what is told; ``at_most`` of a kind within ``window_s`` seconds."""

    def __init__(self, at_most: int = 10, window_s: float = 10.0) -> None:
        self._at_most, self._window_s = at_most, window_s
        self._windows: dict[str, _Window] = {}

    def count(self, kind: str, now: float) -> int | None:
        """Return how many of the kind were left out before this one; None where this one is to be left out too."""
        window = self._windows.get(kind)
        left_out = 0
        if window is None or now - window.begun_s >= self._window_s:
            left_out = 0 if window is None else window.left_out
            self._forget_old(now)
            window = self._windows[kind] = _Window(now)
        if window.told >= self._at_most:
            window.left_out += 1
            return None
        window.told += 1
        return left_out

    def _forget_old(self, now: float) -> None:
        """Drop the oldest kinds where there are too many; what they left out is not told."""
        if len(self._windows) >= KINDS_KEPT:
            by_age = sorted(self._windows, key=lambda kind: self._windows[kind].begun_s)
            for kind in by_age[: KINDS_KEPT // 2]:
                del self._windows[kind]
